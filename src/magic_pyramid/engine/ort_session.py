"""ONNX Runtime sessions that share one pool of threads."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.engine.threads import preferred_threads, usable_cores
from magic_pyramid.errors import CheckpointError, ConfigError, MissingExtraError

ERRORS_ONLY = 3
"""Log level of onnxruntime."""
_SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Its operator takes four times as long as the two it replaces (onnxruntime 1.32)."""


@dataclass(slots=True)
class _Threads:
    """What this process has settled."""

    pool: int | None = None
    """Threads of the shared pool, 0 for one a core; None until it is made."""


_THREADS = _Threads()
_LOCK = threading.Lock()


class OrtGraph:
    """One graph, ready to run from any number of threads."""

    def __init__(self, path: Path, *, threads: int | None) -> None:
        """Load a graph.

        Args:
            path: its file.
            threads: threads of the pool that all graphs share; None: as preferred, or one a core.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            CheckpointError: onnxruntime refuses the file.
            ConfigError: the process already has a pool of another size.
        """
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        _set_threads(runtime, options, threads)
        try:
            self._session = runtime.InferenceSession(
                str(path),
                sess_options=options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_SLOW_FUSIONS,
                enable_fallback=0,
            )
        except Exception as error:  # the runtime raises classes of its own, without a common base
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{path}: onnxruntime refuses the graph ({reason}); export the model again"
            ) from None
        # An input that the graph holds a value for is an initializer that may be overridden.
        ports = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        self.inputs = tuple(port.name for port in ports)
        self.outputs = tuple(port.name for port in self._session.get_outputs())

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; of the values only the graph's inputs are read."""
        results = self._session.run(None, {name: values[name] for name in self.inputs if name in values})
        return {name: _plain(value) for name, value in zip(self.outputs, results, strict=True)}


def _plain(value: np.ndarray) -> np.ndarray:
    """The same numbers; whole ones come as C's long long, which numpy tells from its int64."""
    return value.view(np.int64) if value.dtype == np.int64 else value


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError.of("the ONNX engine", library="onnxruntime", extra="onnx") from None
    return onnxruntime


def _set_threads(runtime: Any, options: Any, threads: int | None) -> None:
    """Let a session use the pool that all graphs of the process share, which is made here if need be.

    A pool for each session would let a dozen pools spin against each other. One thread needs no pool. Once
    there is a pool, onnxruntime makes no session with threads of its own in this process, for nobody.
    """
    wanted = threads or preferred_threads() or usable_cores()
    can_share = hasattr(runtime, "set_global_thread_pool_sizes")
    with _LOCK:
        if _THREADS.pool is None and (wanted == 1 or not can_share):
            options.intra_op_num_threads = wanted
            return
        if _THREADS.pool is None:
            runtime.set_global_thread_pool_sizes(wanted, 1)
            _THREADS.pool = wanted
    options.use_per_session_threads = False
    if threads is not None and _THREADS.pool != threads:
        raise ConfigError(
            f"threads is {threads}; onnxruntime's pool of this process was made with "
            f"{_THREADS.pool} threads: choose the number before the first engine"
        )
