"""What a folder keeps of its calibration: the promise, its conditions, the curve, and the named speeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from magic_pyramid.config import Config, ModelConfig
from magic_pyramid.engine.interface import Setting
from magic_pyramid.errors import ConfigError, nearest

SPEEDS = ("certified", "balanced", "fastest")
"""Names of the stored settings, slowest first."""
INFO_KEY = "certificate"
"""Where the calibration in a folder's info keeps its certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint(Config):
    """A setting, and what it does with the calibration texts."""

    prune_scale: float
    """Multiplier of the token thresholds."""
    exit_thresholds: dict[str, float]
    """By 0-based layer, of the exit heads that are asked."""
    flops_speedup: float
    """Dense FLOPs over its own, padding-free, on all calibration texts."""
    drop: float
    """Estimated points lost against the dense model, on all calibration texts."""
    p_value: float | None = None
    """In [0, 1], of the hypothesis that it loses more than is promised; None where it was not tested."""
    is_certified: bool = False
    """Whether the promise holds for it."""

    def setting(self, config: ModelConfig) -> Setting:
        """As an engine takes it.

        Raises:
            ConfigError: an asked layer has no exit head, as in an export that left it out.
        """
        return setting_of(config, self.prune_scale, self.exit_thresholds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed(CurvePoint):
    """A named setting, and how the calibration texts went through the model under it."""

    name: str
    """One of ``SPEEDS``."""
    exit_counts: tuple[int, ...]
    """Texts by the layer that answered."""
    kept_counts: tuple[int, ...]
    """Texts by the tokens alive at the end, in the bins of ``flow.KEPT_EDGES``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Config):
    """A promise about texts like the calibration texts, drawn independently from the same source."""

    goal: str
    """`max_drop`, `target_speedup` or `target_latency_ms`."""
    wanted: float
    """The goal's number: points, a factor, or milliseconds."""
    confidence: float
    """Share of calibrations, at least, in which the promise holds."""
    drop_bound: float | None
    """Points that the certified setting loses at most; None where only the dense model is certified."""
    is_labelled: bool
    """Whether the labels count; otherwise agreement with the dense model does, which bounds the drop."""
    num_rows: int
    """Calibration texts."""
    num_test_rows: int
    """Those of them that the promise rests on; the others only suggested what to test."""
    rows_needed: int | None
    """Texts that would certify something about as often as not, where nothing was; None where none would."""
    seed: int
    """Of the split into halves."""
    per_layer: bool
    """Whether each exit head could have a threshold of its own."""
    curve: tuple[CurvePoint, ...]
    """The path from the dense model to the fastest setting."""
    speeds: tuple[Speed, ...]
    """The named settings."""
    latency_ms: float | None = None
    """Measured of single texts on the machine of the provenance, where latency was the goal."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, its fingerprint, overlap with training, engine, precision, machine, date, command."""

    def speed(self, name: str) -> Speed:
        """A named setting."""
        return next(speed for speed in self.speeds if speed.name == name)

    def excerpt(self, most: int = 12) -> tuple[CurvePoint, ...]:
        """About so many points of the curve, evenly spread, with the certified and the last tested one."""
        count = len(self.curve)
        kept = {round(place * (count - 1) / max(most - 1, 1)) for place in range(most)} if count else set()
        kept |= {place for place, point in enumerate(self.curve) if point.is_certified}
        tested = [place for place, point in enumerate(self.curve) if point.p_value is not None]
        return tuple(self.curve[place] for place in sorted(kept | set(tested[-1:])))

    @property
    def is_certified(self) -> bool:
        """Whether anything faster than the dense model is."""
        return self.drop_bound is not None

    def sentence(self) -> str:
        """The promise, or why there is none."""
        certified, what = self.speed("certified"), "accuracy" if self.is_labelled else "agreement"
        if self.drop_bound is None:
            if self.latency_ms is not None:
                return (
                    f"The dense model answers a text in {self.latency_ms:.2f} ms, which is within "
                    f"{self.wanted:g} ms, so no setting was chosen."
                )
            more = "Faster settings seem to lose more than that, so more rows are not expected to help."
            if self.rows_needed is not None:
                more = f"About {self.rows_needed:,} rows would be needed."
            return (
                f"No setting can be certified to lose at most {self.wanted:g} points with "
                f"{100 * self.confidence:g} % confidence on {self.num_rows:,} rows. {more}"
            )
        lost = (
            f"loses at most {self.drop_bound:g} points of accuracy against the dense model"
            if self.is_labelled
            else f"differs from the dense model in at most {self.drop_bound:g} % of texts"
        )
        return (
            f"With {100 * self.confidence:g} % confidence the certified setting {lost}, on texts like the "
            f"{self.num_rows:,} calibration rows, at {certified.flops_speedup:.2f}x fewer FLOPs "
            f"(estimated there: {certified.drop:.2f} points of {what})."
        )


def setting_of(config: ModelConfig, prune_scale: float, exit_thresholds: Mapping[str, float]) -> Setting:
    """As an engine takes it: one threshold where all asked heads have the same, otherwise one for each.

    Raises:
        ConfigError: an asked layer has no exit head, as in an export that left it out.
    """
    asked = {int(layer): value for layer, value in exit_thresholds.items()}
    scale = prune_scale if config.prune else 0.0
    if not asked:
        return Setting(prune_scale=scale)
    if set(asked) - set(config.exit_layers):
        raise ConfigError(
            f"this speed asks the exit heads after the layers {sorted(asked)}; the model has them after "
            f"{list(config.exit_layers)}: use the folder it was exported from"
        )
    layers = None if set(asked) == set(config.exit_layers) else tuple(sorted(asked))
    values = tuple(asked.get(layer, 0.0) for layer in config.exit_layers)
    threshold = next(iter(asked.values())) if len(set(asked.values())) == 1 else values
    return Setting(prune_scale=scale, exit_threshold=threshold, exit_layers=layers)


def stored_certificate(info: Mapping[str, Any]) -> Certificate | None:
    """The certificate in a folder's info; None where it was never calibrated with a guarantee."""
    stored = info.get("calibration", {}).get(INFO_KEY)
    return None if stored is None else Certificate.from_dict(stored)


def without_certificate(info: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's info for a model that answers otherwise, such as one in another precision.

    The setting stays, and what was seen of it that tuning needs; what it was measured to be worth goes.
    """
    gone = {INFO_KEY, "kind", "quality", "dense_quality", "flops_speedup"}
    kept = {key: value for key, value in info.get("calibration", {}).items() if key not in gone}
    return {**info, "calibration": kept}


def stored_speed(info: Mapping[str, Any], name: str) -> Speed:
    """A named setting of a folder.

    Raises:
        ConfigError: there is no such name, or the folder has none.
    """
    if name not in SPEEDS:
        raise ConfigError(f"speed is {name!r}; {nearest(str(name), SPEEDS)}")
    certificate = stored_certificate(info)
    if certificate is None:
        raise ConfigError(
            f"speed is {name!r}, but this model was not calibrated with a guarantee; run: "
            "magic-pyramid calibrate DIR --data HELD_OUT_ROWS, or give exit_threshold and prune_scale"
        )
    return certificate.speed(name)


def asked_thresholds(config: ModelConfig, thresholds: Sequence[float]) -> dict[str, float]:
    """By layer, of the heads whose threshold is not negative."""
    pairs = zip(config.exit_layers, thresholds, strict=True)
    return {str(layer): value for layer, value in pairs if value >= 0.0}
