"""What happened to one text inside the model: which tokens fell where, and where it left."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from magic_pyramid.config import ProblemType
from magic_pyramid.errors import InputError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceLayer:
    """One layer that ran."""

    index: int
    """0-based layer."""
    arrived: list[int]
    """Positions of the tokens alive when the layer began, ascending."""
    kept: list[int]
    """Positions of the tokens alive after its pruning, ascending."""
    importance: list[float]
    """Attention mass of each arrived token, >= 0; the average is 1."""
    token_threshold_mass: float | None = None
    """Tokens below this mass are dropped; None when the layer does not prune."""
    uncertainty: float | None = None
    """Uncertainty of the head after this layer, in [0, 1]; None without a head."""
    probabilities: list[float] | None = None
    """Answer of the head after this layer, one number per label; None without a head."""
    attention: list[list[float]] | None = None
    """Attention averaged over heads, arrived x arrived, each row sums to 1; None when not recorded."""

    def __post_init__(self) -> None:
        if len(self.importance) != len(self.arrived):
            raise InputError(
                f"layer {self.index} of the trace has {len(self.importance)} importances for "
                f"{len(self.arrived)} arrived tokens; give one each"
            )
        strangers = sorted(set(self.kept) - set(self.arrived))
        if strangers:
            raise InputError(
                f"layer {self.index} of the trace keeps tokens {strangers[:5]} that did not arrive; "
                "kept must be part of arrived"
            )

    @property
    def dropped(self) -> list[int]:
        """Positions of the tokens that fell in this layer, ascending."""
        kept = set(self.kept)
        return [token for token in self.arrived if token not in kept]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The whole way of one text through the model."""

    tokens: list[str]
    """Pieces as the tokenizer writes them, special tokens included."""
    labels: tuple[str, ...]
    """Label names in the order of the probabilities."""
    problem_type: ProblemType
    """How the probabilities are read."""
    layers: tuple[TraceLayer, ...]
    """The layers that ran, first layer first."""
    exit_layer: int
    """0-based layer whose head answered."""
    num_layers: int
    """Layers of the model."""
    exit_threshold: float | None
    """Largest uncertainty with which the text may leave; None: exits were off, or each layer has its own."""
    probabilities: list[float]
    """The answer: one number per label (regression: the predicted number)."""
    gflops: float
    """Cost of this text."""
    dense_gflops: float
    """Cost of this text without pruning and exits."""
    prune_scale: float = 1.0
    """Multiplier of the token thresholds that was used."""

    def __post_init__(self) -> None:
        indices = [layer.index for layer in self.layers]
        if not indices or indices != list(range(self.exit_layer + 1)) or self.exit_layer >= self.num_layers:
            raise InputError(
                f"the trace has layers {indices} and exit_layer {self.exit_layer} "
                f"of {self.num_layers} layers; give every layer from 0 to exit_layer"
            )
        if len(self.probabilities) != len(self.labels):
            raise InputError(
                f"the trace has {len(self.probabilities)} probabilities for {len(self.labels)} labels; "
                "give one each"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; ``from_dict`` gives back an equal trace."""
        data = dataclasses.asdict(self)
        return {**data, "labels": list(self.labels), "layers": list(data["layers"])}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from JSON data.

        Raises:
            InputError: a key is unknown or missing, or the layers contradict each other.
        """
        layers = tuple(TraceLayer(**_checked(TraceLayer, layer)) for layer in data.get("layers", ()))
        known = _checked(cls, data)
        return cls(**{**known, "labels": tuple(known["labels"]), "layers": layers})

    @property
    def num_layers_run(self) -> int:
        """How many layers were executed."""
        return len(self.layers)

    @property
    def left_early(self) -> bool:
        """Whether at least one layer did not run."""
        return self.exit_layer < self.num_layers - 1

    @property
    def has_exits(self) -> bool:
        """Whether any layer's uncertainty was recorded."""
        return any(layer.uncertainty is not None for layer in self.layers)

    @property
    def flops_speedup(self) -> float:
        """GFLOPs of the dense model divided by this text's."""
        return self.dense_gflops / self.gflops if self.gflops > 0 else 1.0

    def dropped_at(self) -> list[int | None]:
        """For each token the layer in which it fell; None: it was alive to the end."""
        fell: list[int | None] = [None] * len(self.tokens)
        for layer in self.layers:
            for token in layer.dropped:
                fell[token] = layer.index
        return fell

    def importance_by_token(self) -> list[list[float]]:
        """For each token its importance in the layers it reached, first layer first."""
        rows: list[list[float]] = [[] for _ in self.tokens]
        for layer in self.layers:
            for token, importance in zip(layer.arrived, layer.importance, strict=True):
                rows[token].append(importance)
        return rows

    def ranked_tokens(self) -> list[int]:
        """All tokens: those that went deepest first, then by importance in the last layer they reached."""
        rows, fell = self.importance_by_token(), self.dropped_at()

        def depth(token: int) -> tuple[bool, int, float]:
            return fell[token] is None, len(rows[token]), rows[token][-1] if rows[token] else 0.0

        return sorted(range(len(self.tokens)), key=depth, reverse=True)

    def ranked_labels(self, probabilities: list[float] | None = None) -> list[tuple[str, float]]:
        """Labels with their probabilities, most probable first; of the final answer unless given."""
        values = self.probabilities if probabilities is None else probabilities
        return sorted(zip(self.labels, values, strict=True), key=lambda pair: -pair[1])

    def answer(self, probabilities: list[float] | None = None) -> str:
        """The label, labels or number these probabilities stand for; of the final answer unless given."""
        ranked = self.ranked_labels(probabilities)
        if self.problem_type == "regression":
            return f"{ranked[0][1]:.2f}"
        if self.problem_type == "multi_label":
            return ", ".join(label for label, value in ranked if value >= 0.5) or "no label"
        return ranked[0][0]

    def confidence(self, probabilities: list[float] | None = None) -> str:
        """Probability of that answer in percent; empty where one number would not say it."""
        if self.problem_type != "single_label":
            return ""
        return f"{100 * self.ranked_labels(probabilities)[0][1]:.1f} %"

    def saving(self) -> tuple[str, str]:
        """How many times fewer (or more) FLOPs, and than what."""
        speedup = self.flops_speedup
        if speedup >= 1:
            return f"{speedup:.1f}×", "fewer FLOPs than all tokens in all layers"
        return f"{1 / speedup:.2f}×", "more FLOPs than all tokens in all layers without exits"

    def summary(self) -> str:
        """One sentence: where it left, with how many tokens, at what cost."""
        start, end = len(self.tokens), len(self.layers[-1].kept)
        where = f"left after layer {self.exit_layer}" if self.left_early else "went through every layer"
        layers = f"{self.num_layers_run} of {self.num_layers} layers"
        tokens = (
            f"{start} → {end} tokens"
            if end < start
            else f"{start} token{'s' if start > 1 else ''} throughout"
        )
        return f"{where} ({layers}), {tokens}, {self.gflops:.3g} of {self.dense_gflops:.3g} GFLOPs"


def _checked(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in data:
        if key not in known:
            raise InputError(f"{cls.__name__} has no field {key!r}; {nearest(key, known)}")
    missing = [name for name, f in known.items() if name not in data and f.default is dataclasses.MISSING]
    if missing:
        raise InputError(f"{cls.__name__} lacks {', '.join(missing)}; write traces with to_dict")
    return dict(data)
