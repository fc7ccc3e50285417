"""The process of one contender: it loads, answers what the bench asks, and sleeps in between.

Requests and replies are lines of JSON on stdin and stdout; what libraries print goes to stderr.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from magic_pyramid.bench.contender import Answer, Material
from magic_pyramid.bench.texts import BenchTexts


class Worker:
    """A loaded contender and the texts it has read."""

    def __init__(self, material: Material, answer: Answer) -> None:
        self._material, self._answer = material, answer
        self._texts: dict[str, BenchTexts] = {}

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request asks."""
        tasks: dict[str, Callable[..., dict[str, Any]]] = {
            "answer": self.answer,
            "time": self.time,
            "memory": self.memory,
        }
        options = {key: value for key, value in request.items() if key != "do"}
        return tasks[request["do"]](**options)

    def answer(self, texts: str, batch_size: int) -> dict[str, Any]:
        """Logits, and receipts where there are any."""
        answers = self._answer(self._read(texts), batch_size)
        receipts = {"exit_layer": answers.exit_layer, "num_tokens": answers.num_tokens}
        return {
            "logits": answers.logits.tolist(),
            **{name: None if value is None else value.tolist() for name, value in receipts.items()},
        }

    def time(self, texts: str, batch_size: int) -> dict[str, Any]:
        """Seconds of one pass; at batch size 1, of each text by itself."""
        chosen = self._read(texts)
        calls = [chosen.select([row]) for row in range(len(chosen))] if batch_size == 1 else [chosen]
        seconds = []
        gc.collect()
        gc.disable()
        try:
            for call in calls:
                started_s = time.perf_counter()
                self._answer(call, batch_size)
                seconds.append(time.perf_counter() - started_s)
        finally:
            gc.enable()
        return {"seconds": seconds}

    def memory(self) -> dict[str, Any]:
        """Highest memory of this process so far."""
        return {"peak_memory_mb": peak_memory_mb()}

    def _read(self, name: str) -> BenchTexts:
        if name not in self._texts:
            self._texts[name] = self._material.texts(name)
        return self._texts[name]


def peak_memory_mb() -> float:
    """Highest resident memory of this process: interpreter, libraries, weights and values together.

    Linux hands a parent's ``ru_maxrss`` down to its children, so the process's own record is read first.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    try:
        import resource
    except ImportError:
        # Windows has none.
        return float("nan")
    unit = 1024**2 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _own_stdout() -> TextIO:
    """The pipe to the bench; whatever else writes to stdout from now on goes to stderr."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return pipe


def serve(name: str, folder: str, threads: str, *, pipe: TextIO, requests: TextIO) -> None:
    """Load, answer one text, say so, and then reply to one request after the other."""
    from magic_pyramid.bench.roster import CONTENDERS

    material = Material.read(Path(folder))
    worker = Worker(material, CONTENDERS[name].load(material, int(threads)))
    worker.answer("first", 1)
    _send(pipe, {"ready": True})
    for line in requests:
        _send(pipe, worker.reply(json.loads(line)))


def prepare(name: str, folder: str, *, pipe: TextIO) -> None:
    """Convert the weights for one contender."""
    from magic_pyramid.bench.roster import CONTENDERS

    CONTENDERS[name].prepare(Material.read(Path(folder)))
    _send(pipe, {"ready": True})


def peak(threads: str, *, pipe: TextIO, requests: TextIO) -> None:
    """Measure what the machine can do at most, as often as asked."""
    from magic_pyramid.bench.peak import measured_peak

    for _ in requests:
        _send(pipe, measured_peak(int(threads)))


def _send(pipe: TextIO, reply: Mapping[str, Any]) -> None:
    pipe.write(json.dumps(reply) + "\n")
    pipe.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one task: ``serve NAME FOLDER THREADS``, ``prepare NAME FOLDER`` or ``peak THREADS``."""
    task, *rest = sys.argv[1:] if arguments is None else arguments
    pipe = _own_stdout()
    try:
        if task == "serve":
            serve(*rest, pipe=pipe, requests=sys.stdin)
        elif task == "prepare":
            prepare(*rest, pipe=pipe)
        else:
            peak(*rest, pipe=pipe, requests=sys.stdin)
    except Exception as error:
        _send(pipe, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
        raise
