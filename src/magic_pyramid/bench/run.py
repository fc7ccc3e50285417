"""The whole bench: prepare, start, check, measure in turns, and put it all into one JSON document."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.bench.child import Child, run_once
from magic_pyramid.bench.contender import Contender, Material, nothing
from magic_pyramid.bench.roster import chosen
from magic_pyramid.bench.rows import COLUMNS, Measured, gflops_of, growth_of, rows_of
from magic_pyramid.bench.texts import BenchTexts, random_texts
from magic_pyramid.bench.turns import LATENCY, Task, Timings, in_turns
from magic_pyramid.bench.verdict import Verdict, judge
from magic_pyramid.classifier import Classifier
from magic_pyramid.data import Example
from magic_pyramid.engine.interface import DENSE, check_classifies, default_setting, layers_tested
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.fitting import commit, machine
from magic_pyramid.metrics import METRIC_NAMES, quality

WARM_TEXTS = 6
"""Texts of a warm-up, from the shortest to the longest."""
_LIBRARIES = (
    "magic-pyramid",
    "torch",
    "transformers",
    "onnxruntime",
    "openvino",
    "nncf",
    "ctranslate2",
    "sentence-transformers",
    "numpy",
)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What to measure."""

    threads: tuple[int, ...] = (1,)
    """Numbers of CPU threads, one after the other."""
    batch_sizes: tuple[int, ...] = (1, 32, 128)
    """Texts a batch; 1 is always measured, for the latency."""
    lengths: tuple[int, ...] = ()
    """Lengths of random sequences for the growth table, in tokens."""
    repeats: int = 3
    """Timed passes of each contender, alternating."""
    only: tuple[str, ...] = ()
    """Names of contenders or engines; empty: all."""
    seed: int = 0
    """Of the random sequences."""

    def __post_init__(self) -> None:
        for name in ("threads", "batch_sizes", "lengths"):
            values = getattr(self, name)
            if any(value < 1 for value in values) or len(set(values)) != len(values):
                raise ConfigError(f"{name} is {values}; give different whole numbers of at least 1")
        if not self.threads or not self.batch_sizes or self.repeats < 1:
            raise ConfigError("threads, batch_sizes and repeats need at least one of each")
        if any(length < 3 for length in self.lengths):
            raise ConfigError(f"lengths is {self.lengths}; a sequence has at least 3 tokens")
        chosen(self.only)

    @property
    def tasks(self) -> list[Task]:
        """Every text by itself, then the batches, then the random sequences."""
        sizes = [size for size in self.batch_sizes if size != 1]
        return [
            LATENCY,
            *(Task("texts", size) for size in sizes),
            *(Task(f"length_{length}", 1) for length in self.lengths),
        ]


def run_bench(
    classifier: Classifier,
    examples: Sequence[Example],
    *,
    options: BenchOptions,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Measure all contenders on labelled examples, with the weights of one model.

    Raises:
        InputError: there are no examples, some have no label, or the classifier is an exported folder.
        ConfigError: a length of the sweep is longer than the model takes.
    """
    labels = [example.label for example in examples if example.label is not None]
    if not labels or len(labels) != len(examples):
        raise InputError(
            f"{len(examples) - len(labels)} of {len(examples)} examples have no label; label them"
        )
    config = classifier.model.config
    check_classifies(config, what="bench")
    if too_long := [length for length in options.lengths if length > config.max_length]:
        raise ConfigError(
            f"lengths contains {too_long[0]}; the model takes at most {config.max_length} tokens"
        )
    raw = [example.inputs for example in examples]
    texts = BenchTexts(classifier.encoder.encode(raw, max_length=config.max_length), raw)
    with tempfile.TemporaryDirectory(prefix="magic_pyramid_bench_") as name:
        material = Material(Path(name), config)
        bench = _Bench(classifier, material, texts, labels, options, say)
        return bench.run()


class _Bench:
    """One run: what is known so far."""

    def __init__(
        self,
        classifier: Classifier,
        material: Material,
        texts: BenchTexts,
        labels: Sequence[Any],
        options: BenchOptions,
        say: Say,
    ) -> None:
        self.classifier, self.material, self.texts = classifier, material, texts
        self.labels, self.options, self.say = labels, options, say
        self.skipped: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.prepared: set[tuple[str, str]] = set()
        self.references: dict[bool, np.ndarray] = {}

    def run(self) -> dict[str, Any]:
        self._write_material()
        contenders = [contender for contender in chosen(self.options.only) if self._prepared(contender)]
        rows: list[dict[str, Any]] = []
        growth: list[dict[str, Any]] = []
        peaks: dict[str, dict[str, Any]] = {}
        counts = {length: len(self.material.texts(f"length_{length}")) for length in self.options.lengths}
        sizes = [task.batch_size for task in self.options.tasks if task.texts == "texts"]
        for threads in self.options.threads:
            with Child("peak", str(threads), threads=threads, blas_threads=threads) as ruler:
                # Before and after, for the machine may be busy with something else for a while.
                before = ruler.ask(do="peak")
                found = self._measure(contenders, threads)
                peak = max(before, ruler.ask(do="peak"), key=lambda one: float(one["gflops_per_s"]))
            peaks[str(threads)] = peak
            rows += rows_of(
                found, self.texts, batch_sizes=sizes, threads=threads, peak_gflops=peak["gflops_per_s"]
            )
            growth += growth_of(found, counts, threads=threads)
        return {
            "provenance": self._provenance(peaks),
            "columns": COLUMNS,
            "rows": rows,
            "growth": growth,
            "skipped": self.skipped,
            "refused": self.refused,
        }

    def _write_material(self) -> None:
        material, texts = self.material, self.texts
        material.write()
        self.classifier.save_pretrained(material.model)
        try:
            self.classifier.to_huggingface(material.huggingface)
        except CheckpointError as error:
            self.say(f"no ordinary checkpoint: {error}")
        texts.write(material.folder / "texts.json")
        texts.select([0]).write(material.folder / "first.json")
        texts.sample(WARM_TEXTS).write(material.folder / "warm.json")
        for length in self.options.lengths:
            sweep = random_texts(texts.encoded, length=length, seed=self.options.seed)
            sweep.write(material.folder / f"length_{length}.json")
        engine = TorchEngine(self.classifier.model)
        for adaptive in (False, True):
            setting = default_setting(material.config) if adaptive else DENSE
            self.references[adaptive] = engine.run(texts.encoded, setting=setting, batch_size=8).logits

    def _prepared(self, contender: Contender) -> bool:
        reason = contender.obstacle(self.material.config, self.texts)
        key = contender.engine, contender.precision
        if reason is None and contender.prepare is not nothing and key not in self.prepared:
            self.say(f"preparing {contender.name}")
            try:
                run_once("prepare", contender.name, str(self.material.folder))
                self.prepared.add(key)
            except ChildProcessError as error:
                reason = f"could not be prepared: {error}"
        if reason is not None:
            self._skip(contender.name, reason)
        return reason is None

    def _skip(self, name: str, reason: str) -> None:
        self.skipped.append({"name": name, "reason": reason})
        self.say(f"skipped {name}: {reason}")

    def _measure(self, contenders: Sequence[Contender], threads: int) -> list[Measured]:
        with self._seated(contenders, threads) as seats:
            accepted = {name: seat for name, seat in seats.items() if self._accepted(seat)}
            tasks = self.options.tasks
            self.say(f"measuring {len(accepted)} contenders in turns, {threads} threads")
            timings, failures = in_turns(
                {name: seat.child for name, seat in accepted.items()},
                tasks,
                repeats=self.options.repeats,
                can_do=lambda name, task: task.texts == "texts" or accepted[name].contender.takes == "tokens",
            )
            for name, reason in failures.items():
                self._skip(name, f"dropped out: {reason}")
            return [self._measured(accepted[name], one) for name, one in timings.items()]

    @contextmanager
    def _seated(self, contenders: Sequence[Contender], threads: int) -> Iterator[dict[str, "_Seat"]]:
        """Start one process after the other; all stay, and sleep."""
        with ExitStack() as stack:
            seats: dict[str, _Seat] = {}
            largest_mb = 0.0
            for contender in contenders:
                if (free_mb := available_memory_mb()) < 1.2 * largest_mb:
                    self._skip(
                        contender.name, f"only {free_mb:.0f} MB of memory are left; name it with --only"
                    )
                    continue
                self.say(f"starting {contender.name}, {threads} threads")
                child = Child(
                    "serve", contender.name, str(self.material.folder), str(threads),
                    threads=threads,
                    needs_torch=contender.needs_torch,
                    cache=self.material.folder / f"cache_{threads}",
                )  # fmt: skip
                stack.enter_context(child)
                try:
                    seat = _Seat(contender, child, child.ready())
                    largest_mb = max(largest_mb, child.ask(do="memory")["peak_memory_mb"])
                except ChildProcessError as error:
                    self._skip(contender.name, f"could not start: {error}")
                    continue
                seats[contender.name] = seat
            yield seats

    def _accepted(self, seat: "_Seat") -> bool:
        """Warm up, and compare the answers with the model's."""
        contender, config = seat.contender, self.material.config
        sizes = [task.batch_size for task in self.options.tasks if task.texts == "texts"]
        try:
            for size in sizes:
                seat.child.ask(do="time", texts="warm", batch_size=size)
            reply = seat.child.ask(do="answer", texts="texts", batch_size=max(sizes))
        except ChildProcessError as error:
            self._skip(contender.name, f"could not answer: {error}")
            return False
        logits = np.asarray(reply["logits"], dtype=np.float32)
        seat.verdict = judge(contender, logits, self.references[contender.adaptive], config.problem_type)
        if seat.verdict.reason is not None:
            self.refused.append({"name": contender.name, "reason": seat.verdict.reason})
            self.say(f"refused {contender.name}: {seat.verdict.reason}")
            return False
        seat.accuracy = quality(logits, self.labels, config)
        receipts = {name: reply[name] for name in ("exit_layer", "num_tokens")}
        seat.gflops = gflops_of(config, contender, self.texts, **receipts)
        return True

    def _measured(self, seat: "_Seat", timings: Timings) -> Measured:
        assert seat.verdict is not None
        return Measured(
            contender=seat.contender,
            accuracy=seat.accuracy,
            verdict=seat.verdict,
            gflops=seat.gflops,
            cold_start_s=seat.cold_start_s,
            peak_memory_mb=seat.child.ask(do="memory")["peak_memory_mb"],
            timings=timings,
        )

    def _provenance(self, peaks: dict[str, dict[str, Any]]) -> dict[str, Any]:
        options, config = self.options, self.material.config
        setting = default_setting(config)
        lengths = self.texts.encoded.lengths
        return {
            "commit": commit(),
            "machine": machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "versions": versions(),
            "seed": options.seed,
            "repeats": options.repeats,
            "threads": list(options.threads),
            "batch_sizes": [task.batch_size for task in options.tasks if task.texts == "texts"],
            "lengths": list(options.lengths),
            "num_texts": len(self.texts),
            "mean_tokens": float(np.mean(lengths)),
            "longest_tokens": max(lengths),
            "metric": METRIC_NAMES[config.problem_type],
            "exit_threshold": setting.exit_threshold,
            "tested_layers": list(layers_tested(config, setting)),
            "prune_scale": setting.prune_scale,
            "peak": peaks,
            "warm_up": f"a pass over {WARM_TEXTS} texts at each batch size, then one over all texts",
        }


@dataclass(slots=True)
class _Seat:
    """A contender whose process runs."""

    contender: Contender
    child: Child
    cold_start_s: float
    verdict: Verdict | None = None
    accuracy: float = 0.0
    gflops: float = 0.0


def available_memory_mb() -> float:
    """Memory that new processes can have; infinite where the system does not say."""
    path = Path("/proc/meminfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 1024
    return float("inf")


def versions() -> dict[str, str]:
    """Versions of the libraries that are installed."""
    found = {}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
