"""The processes that train together; one process is the simplest case."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """Which of how many processes this is, and the device it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009

    @classmethod
    def join(cls, *, use_cpu: bool) -> Self:
        """Meet the other processes that ``torchrun`` or ``accelerate launch`` started, if any."""
        from accelerate import PartialState

        state = PartialState(cpu=True) if use_cpu else PartialState()
        return cls(rank=state.process_index, world_size=state.num_processes, device=state.device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when every process is here."""
        if self.world_size > 1:
            distributed.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.world_size > 1:
            values = values.to(self.device)
            distributed.all_reduce(values)
        return values

    def agree(self, decision: bool) -> bool:
        """The main process's decision."""
        if self.world_size == 1:
            return decision
        flag = torch.tensor([int(decision)], device=self.device)
        distributed.broadcast(flag, src=0)
        return bool(flag.item())


def uses_cpu(device: str | None) -> bool:
    """Whether training runs on the CPU: when asked to, or when there is nothing better."""
    if device is not None:
        return device == "cpu"
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())
