"""How many threads an engine uses that is told no number."""

import os
from dataclasses import dataclass


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
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
