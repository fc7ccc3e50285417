"""Made-up traces that the report tests draw: short and long, early and late, dense, with many labels."""

from functools import cache

import numpy as np

from magic_pyramid.report.trace import Trace, TraceLayer

SHORT = [
    *("<s>", "▁A", "▁quiet", ",", "▁lovely", "▁film", "▁that", "▁never", "▁out", "stay", "s"),
    *("▁its", "▁welcome", ".", "</s>"),
]
WEIGHTS = {"quiet": 2.5, "lovely": 7.0, "film": 1.6, "never": 4.0, "out": 1.2, "stay": 2.0, "welcome": 3.0}
PAIR = [
    "[CLS]",
    "the",
    "company",
    "cut",
    "its",
    "out",
    "##look",
    "[SEP]",
    "the",
    "firm",
    "lowered",
    "its",
    "forecast",
    "[SEP]",
]
_REVIEW = (
    "the director has made a film of rare patience and the camera lingers on faces until they begin to speak "
    "for themselves while a plot about two brothers and a failing boat is told without a single wasted scene "
    "it is funny moving beautifully acted and only the last act with its clumsy coincidence feels dull"
)
LONG_WORDS = _REVIEW.split(" ")


def make_trace(
    tokens: list[str],
    *,
    labels: tuple[str, ...] = ("negative", "positive"),
    num_layers: int = 12,
    leave_after: int | None = 4,
    keep: float = 0.8,
    prunes: bool = True,
    exits: bool = True,
    attention: bool = False,
    problem_type: str = "single_label",
    seed: int = 0,
) -> Trace:
    """A trace with the shape a real one has: shrinking token sets, falling uncertainty."""
    rng = np.random.default_rng(seed)
    base = np.array([WEIGHTS.get(t.strip("▁#"), 0.5) for t in tokens]) * rng.lognormal(0, 0.5, len(tokens))
    base[0] = 3 * base.mean()
    last = num_layers - 1 if leave_after is None else leave_after
    arrived, layers = list(range(len(tokens))), []
    for index in range(last + 1):
        matrix = rng.dirichlet(base[arrived] * 2 + 0.05, size=len(arrived))
        mass = matrix.sum(0)
        bar = float(np.quantile(mass, 1 - keep)) if prunes else None
        kept = [t for t, m in zip(arrived, mass, strict=True) if t == 0 or bar is None or m >= bar]
        uncertainty = round(0.96 * 0.62**index, 4) if exits and index < num_layers - 1 else None
        layers.append(
            TraceLayer(
                index=index, arrived=arrived, kept=kept, importance=[float(m) for m in mass],
                token_threshold_mass=bar, uncertainty=uncertainty,
                probabilities=_answer(len(labels), index, problem_type) if uncertainty is not None else None,
                attention=[[float(v) for v in row] for row in matrix] if attention else None,
            )
        )  # fmt: skip
        arrived = kept
    dense = len(tokens) * num_layers * 0.0036
    cost = sum(len(layer.kept) for layer in layers) * 0.0036 + 0.002
    return Trace(
        tokens=tokens, labels=labels, problem_type=problem_type, layers=tuple(layers), exit_layer=last,
        num_layers=num_layers, exit_threshold=0.2 if exits else None,
        probabilities=_answer(len(labels), last, problem_type), gflops=cost, dense_gflops=dense,
    )  # fmt: skip


def _answer(num_labels: int, layer: int, problem_type: str) -> list[float]:
    if problem_type == "regression":
        return [2.0 + 0.3 * layer]
    top = min(0.995, 0.52 + 0.1 * layer)
    if problem_type == "multi_label":
        return [top if i % 3 == 0 else 0.1 for i in range(num_labels)]
    if num_labels == 1:
        return [1.0]
    rest = (1 - top) / (num_labels - 1)
    winner = num_labels - 1 if layer else 0
    return [top if i == winner else rest for i in range(num_labels)]


def long_tokens(length: int) -> list[str]:
    words = [LONG_WORDS[i % len(LONG_WORDS)] for i in range(length - 2)]
    return ["<s>", *("▁" + word for word in words), "</s>"]


@cache
def many_traces() -> dict[str, Trace]:
    """Every shape a picture must survive."""
    feelings = ("joy", "anger", "love", "surprise")
    hostile = ["[CLS]", "<script>alert(1)</script>", "$x^2$", "\x1b[31m", "&amp;", "日本", "[SEP]"]
    intents = tuple(f"card_payment_question_number_{i}" for i in range(77))
    return {
        "short": make_trace(SHORT, attention=True),
        "medium": make_trace(long_tokens(48), attention=True, leave_after=7),
        "long": make_trace(long_tokens(400), keep=0.72, leave_after=8),
        "longest": make_trace(long_tokens(512), keep=0.93, leave_after=None),
        "pair": make_trace(PAIR, labels=("different", "equivalent"), leave_after=None, keep=0.92),
        "one_token": make_trace(["[CLS]"], leave_after=0),
        "first_layer": make_trace(SHORT, leave_after=0),
        "never_left": make_trace(SHORT, leave_after=None, keep=0.9),
        "no_pruning": make_trace(SHORT, prunes=False),
        "no_exits": make_trace(SHORT, exits=False, leave_after=None, keep=0.85),
        "many_labels": make_trace(SHORT, labels=intents, num_layers=6, leave_after=2),
        "multi_label": make_trace(SHORT, labels=feelings, problem_type="multi_label"),
        "regression": make_trace(
            SHORT, labels=("similarity",), problem_type="regression", exits=False, leave_after=None
        ),
        "hostile": make_trace(hostile),
    }  # fmt: skip
