"""The model card: what a model folder is, how to use it, what was measured, and how."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from magic_pyramid.certify.certificate import Certificate
from magic_pyramid.config import ModelConfig
from magic_pyramid.report.table import Row, markdown_length_table, markdown_table

PROVENANCE = (
    *("command", "commit", "machine", "threads", "dtype", "batch_size", "seed", "repeats"),
    *("data", "split", "date"),
)
"""Order in which the known parts of a provenance are written; others follow."""
MOST_LABELS = 20
"""Label names written out; the others are counted."""
_CALIBRATION = "Calibration"
_OVERLAPS: Mapping[Any, str] = {
    0: "no calibration row was seen in training",
    None: "no calibration row was seen in training, which this folder cannot tell",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardContent:
    """What only the caller knows about a model."""

    name: str
    """Folder or hub name, as a user would pass it to `from_pretrained`."""
    base_model: str | None = None
    """Checkpoint the training began from."""
    license: str | None = None
    """Licence identifier of the weights, where known."""
    datasets: tuple[str, ...] = ()
    """Names of the data the model was trained on."""
    languages: tuple[str, ...] = ()
    """Language codes of the texts."""
    is_pair: bool = False
    """Whether an input is two texts."""
    example: str = "A quiet, lovely film."
    """Text of the usage example."""
    rows: Sequence[Row] = ()
    """Evaluation rows."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """How the rows were measured: command, commit, machine, threads, dtype, batch_size, seed, repeats."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """How the exit threshold was chosen: exit_threshold, split, num_examples, drop."""
    stages: Sequence[Mapping[str, Any]] = ()
    """Training stages in order, each a row of named values."""
    limitations: tuple[str, ...] = ()
    """One sentence each."""
    attribution: tuple[str, ...] = ()
    """Sources and licences that must be named, one line each."""


def model_card(config: ModelConfig, content: CardContent) -> str:
    """The README.md of a model folder; sections without content are left out."""
    sections = [
        _front_matter(config, content),
        f"# {content.name}\n\n{_what(config, content)}",
        f"## Use\n\n{_usage(content) if config.span is None else _span_usage(content)}",
        _section("Measured", _measured(content)),
        _section(_CALIBRATION, _calibration(content.calibration)),
        _section("Training", _stages(content.stages)),
        _section("Limitations", "\n".join(f"- {line}" for line in content.limitations)),
        _section("Attribution", "\n".join(f"- {line}" for line in content.attribution)),
    ]
    return "\n\n".join(section.strip() for section in sections if section) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _front_matter(config: ModelConfig, content: CardContent) -> str:
    """YAML whose values are written as JSON, which YAML contains."""
    task = "text-classification" if config.span is None else "question-answering"
    fields: dict[str, Any] = {
        "license": content.license,
        "language": list(content.languages),
        "library_name": "magic_pyramid",
        "pipeline_tag": task,
        "tags": [task, "token-pruning", "early-exit", "efficient-inference"],
        "datasets": list(content.datasets),
        "base_model": content.base_model,
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items() if value]
    return "\n".join(["---", *lines, "---"])


def _what(config: ModelConfig, content: CardContent) -> str:
    backbone = config.backbone
    texts = "two texts" if content.is_pair else "a text"
    does_what = {
        "single_label": f"A text classifier that gives {texts} one label",
        "multi_label": f"A text classifier that gives {texts} any number of labels",
        "regression": f"A text classifier that gives {texts} one number",
        "span": "A model that answers a question with a part of its context",
    }[config.problem_type]
    ways = []
    if config.prune is not None:
        ways.append("drops tokens that hardly any other token attends to")
    if config.exit is not None and config.exit_layers:
        ways.append(
            f"may leave after any of {len(config.exit_layers)} of its layers, as soon as it is certain enough"
        )
    does = f" It {', and '.join(ways)}." if ways else ""
    source = f" (from `{content.base_model}`)" if content.base_model else ""
    return (
        f"{does_what}: a {backbone.model_type} encoder of "
        f"{backbone.num_hidden_layers} layers and width {backbone.hidden_size}{source}, "
        f"inputs up to {config.max_length} tokens.{does}\n\n{_outputs(config)}"
    )


def _outputs(config: ModelConfig) -> str:
    if config.span is not None:
        always = config.span.no_answer_threshold is None
        answers = "Every question gets an answer." if always else "A question may have no answer."
        return f"Longer contexts are read in windows. {answers}"
    shown = ", ".join(f"`{label}`" for label in config.labels[:MOST_LABELS])
    rest = len(config.labels) - MOST_LABELS
    more = f" and {rest} more" if rest > 0 else ""
    return f"Labels: {shown}{more}."


def _usage(content: CardContent) -> str:
    example = json.dumps(content.example, ensure_ascii=False)
    text = f"({example}, {example})" if content.is_pair else example
    return (
        "```python\n"
        "from magic_pyramid import Classifier\n\n"
        f"classifier = Classifier.from_pretrained({json.dumps(content.name)})\n"
        f"answer = classifier.predict([{text}])\n"
        "print(answer.labels[0], answer.probabilities[0].round(3))\n"
        "print(answer.exit_layer[0], answer.num_tokens[0], answer.gflops[0])  # what it cost\n"
        f"faster = classifier.predict([{text}], exit_threshold=0.5)  # larger leaves earlier\n"
        "```\n\n"
        "The folder also loads with `AutoModelForSequenceClassification` and "
        '`pipeline("text-classification")` once `magic_pyramid` is imported.'
    )


def _span_usage(content: CardContent) -> str:
    return (
        "```python\n"
        "from magic_pyramid import QuestionAnswering\n\n"
        f"qa = QuestionAnswering.from_pretrained({json.dumps(content.name)})\n"
        'found = qa(question="Who won?", context="Denver won the final.")\n'
        'print(found["answer"], found["score"], found["start"], found["end"])\n'
        'print(found["num_tokens"], found["gflops"])  # what it cost\n'
        "```"
    )


def _measured(content: CardContent) -> str:
    if not content.rows:
        return ""
    parts = [markdown_table(content.rows), markdown_length_table(content.rows)]
    known = [key for key in PROVENANCE if key in content.provenance]
    others = [key for key in content.provenance if key not in PROVENANCE]
    lines = [f"- {key.replace('_', ' ')}: `{content.provenance[key]}`" for key in [*known, *others]]
    if lines:
        parts.append("How these numbers were made:\n\n" + "\n".join(lines))
    return "\n\n".join(part.strip() for part in parts if part)


def with_calibration(card: str, calibration: Mapping[str, Any]) -> str:
    """A card whose section on calibration is written anew; where it has none, it comes last."""
    section = _section(_CALIBRATION, _calibration(calibration)).strip()
    before, heading, after = card.partition(f"## {_CALIBRATION}\n")
    if not heading:
        return f"{card.rstrip()}\n\n{section}\n"
    _, following, rest = after.partition("\n## ")
    return f"{before}{section}\n" + (f"\n## {rest}" if following else "")


def _calibration(calibration: Mapping[str, Any]) -> str:
    if not calibration:
        return ""
    if "certificate" in calibration:
        return _certified(calibration["certificate"])
    asked = f" There {target_words(calibration)}." if calibration.get("at_target") else ""
    threshold = calibration.get("exit_threshold")
    if threshold is None:
        return f"Exits are off by default: every layer runs.{asked}"
    sentence = f"The default exit threshold {threshold:g} was chosen"
    if "split" in calibration:
        sentence += f" on `{calibration['split']}`"
    if "num_examples" in calibration:
        sentence += f" ({calibration['num_examples']} rows)"
    if "dense_quality" in calibration:
        sentence += f"; there quality changes by {_change(calibration, calibration)} against the dense model"
    return f"{sentence}.{asked}"


def target_words(calibration: Mapping[str, Any]) -> str:
    """What the speed-up that training asked for costs on the texts of the calibration."""
    found = calibration["at_target"]
    asked, reached = found["target_speedup"], found["flops_speedup"]
    subject = f"the {asked:g}x asked for"
    if reached < asked:
        subject += f" are out of reach, and the fastest setting, {reached:.2f}x,"
    return f"{subject} changed quality by {_change(calibration, found)}: {setting_words(found)}"


def setting_words(setting: Mapping[str, Any]) -> str:
    """Both halves of the speed knob."""
    threshold = setting["exit_threshold"]
    chosen = "none" if threshold is None else f"{threshold:g}"
    return f"exit threshold {chosen}, prune scale {setting['prune_scale']:g}"


def _change(calibration: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    return f"{100 * (found['quality'] - calibration['dense_quality']):+.2f} points"


def _certified(certificate: Mapping[str, Any]) -> str:
    """The promise, its conditions, the named speeds and the curve behind them."""
    found = Certificate.from_dict(certificate)
    where = found.provenance
    conditions = [
        f"texts are drawn independently from the source of the calibration rows (`{where.get('data', '?')}`, "
        f"fingerprint `{where.get('fingerprint', '?')}`); `DriftMonitor` watches that",
        f"the {where.get('engine', '?')} engine in {where.get('precision', '?')} answers: another "
        "precision is another model",
        _OVERLAPS.get(where.get("overlap_with_training"), "rows of the calibration were seen in training, so "
        "the promise is not to be relied on"),
    ]  # fmt: skip
    speeds = [
        "| speed | fewer FLOPs | estimated drop, points | prune scale | exit thresholds |",
        "|---|---:|---:|---:|---|",
    ]
    speeds += [
        f"| `{speed.name}` | {speed.flops_speedup:.2f}x | {speed.drop:.2f} | {speed.prune_scale:g} | "
        f"{threshold_words(speed.exit_thresholds)} |"
        for speed in found.speeds
    ]
    curve = ["| fewer FLOPs | estimated drop, points | p | certified |", "|---:|---:|---:|---|"]
    curve += [
        f"| {point.flops_speedup:.2f}x | {point.drop:.2f} | {_value(point.p_value)} | "
        f"{'yes' if point.is_certified else ''} |"
        for point in found.excerpt()
    ]
    return "\n\n".join([
        found.sentence(),
        "It holds where\n\n" + "\n".join(f"- {condition}." for condition in conditions),
        "\n".join(speeds),
        f"Points of the tested path ({found.num_test_rows:,} of the rows; p is of the drop being larger):",
        "\n".join(curve),
    ])  # fmt: skip


def threshold_words(thresholds: Mapping[str, float]) -> str:
    """Exit thresholds by layer, in short."""
    values = set(thresholds.values())
    if len(values) < 2:
        return f"{values.pop():g}" if values else "none"
    return ", ".join(f"{layer}: {value:g}" for layer, value in thresholds.items())


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return ""
    keys = list(dict.fromkeys(key for stage in stages for key in stage))
    lines = [[key.replace("_", " ") for key in keys], ["---"] * len(keys)]
    lines += [[_value(stage.get(key)) for key in keys] for stage in stages]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|")
