"""Every contender, in the order of the table."""

from collections.abc import Sequence

from magic_pyramid.bench import (
    cross_encoder,
    ctranslate2_encoder,
    huggingface,
    onnx_runtime,
    openvino_runtime,
    ours,
)
from magic_pyramid.bench.contender import Contender
from magic_pyramid.errors import ConfigError, nearest

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        *ours.CONTENDERS,
        *huggingface.CONTENDERS,
        *onnx_runtime.CONTENDERS,
        *openvino_runtime.CONTENDERS,
        *ctranslate2_encoder.CONTENDERS,
        *cross_encoder.CONTENDERS,
    )
}
"""By name."""


def chosen(only: Sequence[str]) -> list[Contender]:
    """The contenders of these names, or of these engines; all of them when none is named.

    Raises:
        ConfigError: nothing has this name.
    """
    engines = {contender.engine for contender in CONTENDERS.values()}
    for name in only:
        if name not in CONTENDERS and name not in engines:
            raise ConfigError(f"there is no contender {name!r}; {nearest(name, CONTENDERS)}")
    return [
        contender
        for contender in CONTENDERS.values()
        if not only or contender.name in only or contender.engine in only
    ]
