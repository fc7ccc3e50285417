"""The run-time check of the tests: every tensor has the shape and type that its annotation says."""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the tensors among arguments and result on each call.

    Other annotations are mypy's concern: tests pass wrong settings on purpose, to read the refusal.
    """
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if _names_a_shape(hint)}
    return beartype(function)


def _names_a_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_names_a_shape(argument) for argument in get_args(hint))
