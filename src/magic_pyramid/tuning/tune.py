"""From a model folder and this machine to the heads that are asked, written into the folder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from magic_pyramid.certify.certificate import stored_certificate
from magic_pyramid.classifier import Classifier, EngineName
from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Example
from magic_pyramid.engine.exported import exported_for
from magic_pyramid.engine.interface import Engine, Setting, default_setting
from magic_pyramid.engine.single_engine import SingleGraphEngine
from magic_pyramid.engine.threads import threads_of
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.fitting import machine
from magic_pyramid.planning import CostTable, ExitPlan, ExitStatistics, plan_exits
from magic_pyramid.sweep import exit_statistics
from magic_pyramid.tuning.costs import BUDGET_S, measure_costs
from magic_pyramid.tuning.folder import open_folder, rewrite_config

INFO_KEY = "tuning"
"""Where the folder's info keeps the plan's provenance and costs."""
LIBRARIES = {"torch": "torch", "onnx": "onnxruntime", "native": "magic_pyramid"}
"""The library of each engine, whose version is part of its measurements."""
MIN_GAIN = 0.02
"""Costs are known to about this share: a smaller gain is noise, and skipping heads changes answers."""
_SAME = ("machine", "threads", "engine", "versions", "batch_size")
"""Costs are measured again unless all of these are as they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What was chosen, and from what."""

    plan: ExitPlan
    statistics: ExitStatistics
    costs: CostTable
    provenance: dict[str, Any]
    """Machine, threads, engine, versions, batch size, date and command."""
    costs_were_stored: bool
    """Whether the costs are those of an earlier call."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            **asdict(self.plan),
            "num_texts": self.statistics.num_texts,
            "costs": self.costs.to_dict(),
            "costs_were_stored": self.costs_were_stored,
            **self.provenance,
        }


def tune(
    folder: str | Path,
    *,
    engine: EngineName = "auto",
    batch_size: int = 32,
    examples: Sequence[Example] | None = None,
    again: bool = False,
    command: str = "",
    budget_s: float = BUDGET_S,
) -> Tuned:
    """Choose the exit heads that pay on this machine, and make them the folder's default.

    Args:
        folder: a model folder or an exported one, with exits.
        engine: which engine is measured; "auto" is the one that the folder is made for.
        batch_size: texts per batch that the plan is for; 1 for the latency of single texts.
        examples: held-out texts, looked at where the folder has no statistics of its own calibration.
        again: measure the costs even if this machine's are stored.
        command: what the user typed, for the provenance.
        budget_s: about how long to measure.

    Raises:
        InputError: it is no folder, or there are no statistics.
        ConfigError: the model has no exits that could be planned.
        CheckpointError: the folder cannot be read or written.
    """
    classifier = open_folder(folder, engine, "tune-engine")
    config = classifier.config
    setting = _plannable(classifier)
    statistics = _stored_statistics(classifier, setting) or _observed_statistics(
        folder, classifier, setting, examples
    )
    provenance = {**_way_to_run(classifier.engine, batch_size), "command": command}
    costs = None if again else _stored_costs(classifier.info.get(INFO_KEY, {}), provenance)
    were_stored = costs is not None
    if were_stored:
        provenance["date"] = classifier.info[INFO_KEY]["date"]
    if costs is None:
        costs = measure_costs(classifier.engine, config, statistics, batch_size=batch_size, budget_s=budget_s)
    plan = plan_exits(statistics, costs, batch_size=batch_size, min_gain=MIN_GAIN)
    found = Tuned(
        plan=plan,
        statistics=statistics,
        costs=costs,
        provenance=provenance,
        costs_were_stored=were_stored,
    )
    info = {
        **classifier.info,
        "calibration": {
            **classifier.info.get("calibration", {}),
            "exit_statistics": statistics.to_dict(),
        },
        INFO_KEY: {**provenance, **asdict(plan), "costs": costs.to_dict()},
    }
    rewrite_config(Path(folder), _with_heads(config, plan.tested_layers), info=info)
    return found


def undo(folder: str | Path) -> bool:
    """Ask the exit heads that calibration chose, or all, and forget what was measured.

    Returns:
        Whether there was anything to undo.

    Raises:
        InputError: it is no folder, or one graph.
        CheckpointError: the folder cannot be read or written.
    """
    classifier = open_folder(folder, "auto", "tune-engine")
    _check_has_heads(classifier)
    if not classifier.info.get(INFO_KEY):
        return False
    config = _with_heads(classifier.config, _certified_layers(classifier))
    rewrite_config(Path(folder), config, info={**classifier.info, INFO_KEY: {}})
    return True


def _check_has_heads(classifier: Classifier) -> None:
    """Raise InputError for one graph, whose heads are in it."""
    if isinstance(classifier.engine, SingleGraphEngine):
        raise InputError(
            "one graph holds the heads it asks; tune the folder it came from, and export it again"
        )


def _certified_layers(classifier: Classifier) -> tuple[int, ...] | None:
    """The layers whose exit heads a certificate asks; None: all, or there is none."""
    certificate = stored_certificate(classifier.info)
    if certificate is None:
        return None
    return certificate.speed("certified").setting(classifier.config).exit_layers


def _plannable(classifier: Classifier) -> Setting:
    """The stored setting with every head, where heads can be chosen.

    Raises:
        InputError: the folder is one graph.
        ConfigError: there are no exits, they are off, or they count heads in a row.
    """
    config, exits = classifier.config, classifier.config.exit
    _check_has_heads(classifier)
    if exits is None or not config.exit_layers:
        raise ConfigError(
            "the model has no exits, so there is nothing to tune; a preset with exits adds them"
        )
    if isinstance(exits.threshold, tuple) or _certified_layers(classifier) is not None:
        raise ConfigError(
            "each exit head has a threshold of its own, chosen together with the heads; to choose heads by "
            "time, calibrate without --per-layer"
        )
    if exits.threshold is None:
        raise ConfigError("exits are off in this model (exit.threshold is None), so there is nothing to tune")
    if exits.criterion == "patience":
        raise ConfigError(
            "exit.criterion is 'patience', which counts heads in a row: every head is asked, "
            "and there is nothing to tune"
        )
    stored = default_setting(config)
    return Setting(prune_scale=stored.prune_scale, exit_threshold=stored.exit_threshold)


def _stored_statistics(classifier: Classifier, setting: Setting) -> ExitStatistics | None:
    """Those of the folder, if they are of this setting."""
    stored = classifier.info.get("calibration", {}).get("exit_statistics")
    if stored is None:
        return None
    statistics = ExitStatistics.from_dict(stored)
    wanted = (setting.exit_threshold, setting.prune_scale, classifier.config.exit_layers)
    found = (statistics.exit_threshold, statistics.prune_scale, statistics.exit_layers)
    return statistics if found == wanted else None


def _observed_statistics(
    folder: str | Path, classifier: Classifier, setting: Setting, examples: Sequence[Example] | None
) -> ExitStatistics:
    """Those of the examples."""
    if exported_for(folder) is not None:
        raise InputError(
            "the export holds no exit statistics of its setting; tune the folder it came from with --data, "
            "and export it again"
        )
    if not examples:
        raise InputError(
            "the folder holds no exit statistics of its setting; give held-out texts with --data, "
            "or calibrate the model again"
        )
    encoded = classifier.encode([example.inputs for example in examples])
    answers = classifier.all_heads_engine.answer_all_heads(encoded, scale=setting.prune_scale)
    return exit_statistics(classifier.config, answers, setting)


def _way_to_run(engine: Engine, batch_size: int) -> dict[str, Any]:
    """What a measurement depends on, and its date."""
    library = LIBRARIES[engine.name]
    return {
        "machine": machine(),
        "threads": threads_of(engine.name),
        "engine": engine.name,
        "versions": {library: _version(library)},
        "batch_size": batch_size,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _version(library: str) -> str | None:
    """None for a library that runs from its sources."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _stored_costs(stored: dict[str, Any], provenance: dict[str, Any]) -> CostTable | None:
    if not stored or any(stored.get(key) != provenance[key] for key in _SAME):
        return None
    return CostTable.from_dict(stored["costs"])


def _with_heads(config: ModelConfig, layers: tuple[int, ...] | None) -> ModelConfig:
    return config.replace(exit=config.exit and config.exit.replace(tested_layers=layers))
