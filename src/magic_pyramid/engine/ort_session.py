"""ONNX Runtime sessions that share one pool of threads."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from magic_pyramid.errors import CheckpointError, ConfigError, MissingExtraError

ERRORS_ONLY = 3
"""Log level of onnxruntime."""
_SLOW_FUSIONS = ["SkipLayerNormFusion"]
"""Its operator takes four times as long as the two it replaces (onnxruntime 1.32)."""

_POOL_LOCK = threading.Lock()
_POOL: dict[str, int] = {}


class OrtGraph:
    """One graph, ready to run from any number of threads."""

    def __init__(self, path: Path, *, threads: int | None) -> None:
        """Load a graph.

        Args:
            path: its file.
            threads: threads of the pool; None takes the pool as it is.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            CheckpointError: onnxruntime refuses the file.
            ConfigError: the process already has a pool of another size.
        """
        runtime = _runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        if _share_pool(runtime, threads):
            options.use_per_session_threads = False
        elif threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(
                str(path),
                sess_options=options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_SLOW_FUSIONS,
            )
        except Exception as error:  # the runtime raises classes of its own, without a common base
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{path}: onnxruntime refuses the graph ({reason}); export the model again"
            ) from None
        self.inputs = tuple(port.name for port in self._session.get_inputs())
        self.outputs = tuple(port.name for port in self._session.get_outputs())

    def run(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; of the values only the graph's inputs are read."""
        results = self._session.run(None, {name: values[name] for name in self.inputs})
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


def _share_pool(runtime: Any, threads: int | None) -> bool:
    """Whether all sessions of the process can use one pool, which is made here the first time.

    A pool for each session would let a dozen pools spin against each other.
    """
    if not hasattr(runtime, "set_global_thread_pool_sizes"):
        return False
    with _POOL_LOCK:
        made = _POOL.setdefault("threads", threads or 0)
        if "is_made" not in _POOL:
            runtime.set_global_thread_pool_sizes(made, 1)
            _POOL["is_made"] = 1
    if threads is not None and made != threads:
        raise ConfigError(
            f"threads is {threads}; onnxruntime's pool of this process was made with "
            f"{made or 'all'} threads: choose the number before the first engine"
        )
    return True
