"""What all configs share: JSON both ways, a description under each field, and checks of values."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Self, Union, get_args, get_origin

from magic_pyramid.errors import ConfigError, nearest


class Config:
    """What all configs share: JSON both ways, and errors that name the nearest known field."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data; ``from_dict`` gives back an equal config."""
        return {f.name: _to_json(getattr(self, f.name)) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from JSON data.

        Raises:
            ConfigError: a key is unknown (the nearest known one is named) or a value is impossible.
        """
        hints = typing.get_type_hints(cls)
        cls.check_keys(data)
        try:
            return cls(**{key: _from_json(hints[key], value) for key, value in data.items()})
        except TypeError as error:
            raise ConfigError(f"{cls.__name__} cannot be built: {error}") from None

    @classmethod
    def check_keys(cls, data: Iterable[str]) -> None:
        """Raise ConfigError for a key that is no field; the nearest field is named."""
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in data:
            if key not in known:
                raise ConfigError(f"{cls.__name__} has no field {key!r}; {nearest(key, known)}")

    @classmethod
    def variant_of(cls, data: object) -> type["Config"]:
        """The class that JSON data belongs to, where a class stands for several kinds.

        Raises:
            ConfigError: no config is of that kind.
        """
        return cls

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked again."""
        return self.from_dict({**self.to_dict(), **{k: _to_json(v) for k, v in changes.items()}})


def _to_json(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return value


def _from_json(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        return _from_json(variant(hint, value), value)
    if isinstance(hint, type) and issubclass(hint, Config):
        return value if isinstance(value, hint) else hint.variant_of(value).from_dict(value)
    if origin is tuple:
        return tuple(_from_json(arguments[0], item) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def variant(hint: Any, value: object) -> Any:
    """The member of a union that JSON data belongs to: of a config with several kinds that of its ``kind``.

    Raises:
        ConfigError: no config is of that kind.
    """
    members = [member for member in get_args(hint) if member is not type(None)]
    if isinstance(value, list | tuple):
        # Of a number and a list of numbers, the list is named last.
        return members[-1]
    if isinstance(value, Mapping) and isinstance(members[0], type) and issubclass(members[0], Config):
        return members[0].variant_of(value)
    return type(value) if type(value) in members else members[0]


def kind_of(member: type[Config]) -> str:
    """The name by which JSON data tells a config from the others of its family."""
    return str(next(f.default for f in dataclasses.fields(member) if f.name == "kind"))  # type: ignore[arg-type]


@cache
def field_docs(cls: type[Config]) -> dict[str, str]:
    """Description of each field of a config class: the string that follows it in the source."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    docs = {}
    for statement, following in zip(body, body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[statement.target.id] = " ".join(str(following.value.value).split())  # type: ignore[union-attr,attr-defined]
    return docs


def check_choice(owner: str, name: str, value: object, hint: Any) -> None:
    """Raise ConfigError unless the value is one of a Literal's."""
    if value not in get_args(hint):
        raise ConfigError(f"{owner}.{name} is {value!r}; {nearest(str(value), get_args(hint))}")


def check_within(owner: str, name: str, value: float, low: float, high: float) -> None:
    """Raise ConfigError unless the value is a number in ``[low, high]``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ConfigError(f"{owner}.{name} is {value!r}; it must lie in [{low}, {high}]")
