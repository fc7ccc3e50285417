"""How many threads an engine uses that is told no number."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how many microseconds of processor time a container gets in how many (cgroup v2)."""


@dataclass(slots=True)
class _Preference:
    count: int | None = None


_PREFERENCE = _Preference()


def prefer_threads(count: int) -> None:
    """Let engines that are made from now on, and are told no number, use this many threads."""
    _PREFERENCE.count = count


def preferred_threads() -> int | None:
    """The number preferred; None: nobody said."""
    return _PREFERENCE.count


def threads_of(engine_name: str) -> int:
    """How many threads an engine of this name uses that was told no number."""
    if engine_name == "torch":
        # The other engines run without PyTorch.
        import torch

        return torch.get_num_threads()
    return preferred_threads() or usable_cores()


def usable_cores() -> int:
    """Cores that this process may use; no more than its container is given, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _container_limit() or cores)


def _container_limit() -> int | None:
    try:
        microseconds, period = CPU_LIMIT.read_text().split()
        return math.ceil(int(microseconds) / int(period))
    except (OSError, ValueError):
        # Not Linux, an older cgroup, or "max" for no limit.
        return None
