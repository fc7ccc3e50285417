"""Depth: exit heads, what they learn from, and when a sequence may leave."""

from magic_pyramid.exiting.criteria import ExitRule, ExitState, uncertainty
from magic_pyramid.exiting.heads import HeadKind, build_head
from magic_pyramid.exiting.losses import distillation, exit_distillation, task_loss

__all__ = [
    "ExitRule",
    "ExitState",
    "HeadKind",
    "build_head",
    "distillation",
    "exit_distillation",
    "task_loss",
    "uncertainty",
]
