"""The bench's side of a contender's process: start it, ask it, wait until it sleeps, end it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Timer
from typing import Any, Self

PATIENCE_S = 600.0
"""A process that takes longer for one reply is ended."""
_TICK_S = 0.02
_MOST_WAITING_S = 1.0
_RUN = "from magic_pyramid.bench.worker import main; main()"
_HIDE_TORCH = "import sys; sys.modules['torch'] = None; "


class Child:
    """A process that answers one request at a time."""

    def __init__(
        self,
        *task: str,
        threads: int,
        needs_torch: bool = True,
        blas_threads: int = 1,
        cache: Path | None = None,
    ) -> None:
        """Start it.

        Args:
            task: the arguments of ``worker.main``.
            threads: of the libraries whose number is taken from the environment.
            needs_torch: False: it finds no PyTorch, as in an installation without it.
            blas_threads: of numpy, which would spin beside an engine's own threads.
            cache: where torch.compile keeps its work, so that it starts cold.
        """
        self._errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.started_s = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN if needs_torch else _HIDE_TORCH + _RUN, *task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=_environment(threads, blas_threads, cache),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> float:
        """Wait for the first answer; gives the seconds since the process was started.

        Raises:
            ChildProcessError: it failed; the reason is its own last word.
        """
        self.receive()
        elapsed_s = time.perf_counter() - self.started_s
        self.settle()
        return elapsed_s

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request, wait for the reply, and until the process sleeps again.

        Raises:
            ChildProcessError: it failed, or took too long.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildProcessError(self._last_words()) from None
        reply = self.receive()
        self.settle()
        return reply

    def receive(self) -> dict[str, Any]:
        """The next reply.

        Raises:
            ChildProcessError: it failed, or took too long.
        """
        assert self._process.stdout is not None
        alarm = Timer(PATIENCE_S, self._process.kill)
        alarm.daemon = True
        alarm.start()
        line = self._process.stdout.readline()
        alarm.cancel()
        if not line:
            raise ChildProcessError(self._last_words())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ChildProcessError(reply["error"])
        return reply

    def settle(self) -> None:
        """Wait until no thread of the process works: pools spin for a while after their last task."""
        waited_s, before = 0.0, self._cpu_ticks()
        while waited_s < _MOST_WAITING_S:
            time.sleep(_TICK_S)
            waited_s += _TICK_S
            now = self._cpu_ticks()
            if now == before and (now is not None or waited_s > _MOST_WAITING_S / 4):
                return
            before = now

    def close(self) -> None:
        """End the process; its request pipe is its life."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _cpu_ticks(self) -> int | None:
        """Processor time of all its threads so far; None where the system does not say."""
        try:
            content = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8")
        except OSError:
            return None
        fields = content.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f"its process ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}"


def _environment(threads: int, blas_threads: int, cache: Path | None) -> Mapping[str, str]:
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(blas_threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **({"TORCHINDUCTOR_CACHE_DIR": str(cache)} if cache else {}),
    }


def run_once(*task: str) -> dict[str, Any]:
    """Start a process for one task and give its only reply.

    Raises:
        ChildProcessError: it failed.
    """
    with Child(*task, threads=1) as child:
        return child.receive()
