"""Check JSON data against the annotations of a config class before anything is built from it."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from magic_pyramid.config.base import Config, variant
from magic_pyramid.errors import ConfigError

_PLAIN: Mapping[Any, tuple[tuple[type, ...], str]] = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}


def type_problems(hint: Any, value: object, where: str) -> Iterator[str]:
    """One sentence for each value whose type is not the annotated one; unknown keys are left alone."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is not None:
            yield from _variant_problems(hint, value, where)
    elif isinstance(hint, type) and issubclass(hint, Config):
        yield from _config_problems(hint, value, where)
    elif origin is tuple:
        if not isinstance(value, list | tuple):
            yield f"{where} is {value!r}; it must be a list"
            return
        for index, item in enumerate(value):
            yield from type_problems(arguments[0], item, f"{where}[{index}]")
    elif hint in _PLAIN:
        wanted, words = _PLAIN[hint]
        if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
            yield f"{where} is {value!r}; it must be {words}"


def _variant_problems(hint: Any, value: object, where: str) -> Iterator[str]:
    try:
        member = variant(hint, value)
    except ConfigError as error:
        yield f"{where}.{error}"
        return
    yield from type_problems(member, value, where)


def _config_problems(hint: type[Config], value: object, where: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where} is {value!r}; it must be an object"
        return
    hints = typing.get_type_hints(hint)
    for field in dataclasses.fields(hint):  # type: ignore[arg-type]
        if field.name in value:
            yield from type_problems(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            yield f"{where}.{field.name} is missing"
