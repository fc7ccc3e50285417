"""Tensors on disk: safetensors files whose matrices may be stored in 16 or 8 bits.

Vectors stay fp32 in every storage: they are small, and token thresholds are among them. A matrix stored in
8 bits is two tensors, ``NAME.int8`` and ``NAME.scale`` (one number a row).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from magic_pyramid.errors import CheckpointError, nearest

Storage = Literal["fp32", "fp16", "int8"]

_CODES = ".int8"
_SCALE = ".scale"
_LARGEST_CODE = 127


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, storage: Storage) -> None:
    """Write a safetensors file.

    Raises:
        CheckpointError: the storage is unknown or cannot hold a value.
    """
    if storage not in _COMPRESS:
        raise CheckpointError(f"storage is {storage!r}; {nearest(str(storage), _COMPRESS)}")
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu()
        stored |= _COMPRESS[storage](name, plain) if plain.ndim == 2 else {name: plain}
    broken = [name for name, tensor in stored.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(
            f"{path.name}: not finite in {storage}: {', '.join(broken)}; "
            "choose storage 'fp32', or train again if that is it"
        )
    # Cloned, because safetensors refuses tensors that share memory.
    save_file(
        {name: t.clone(memory_format=torch.contiguous_format) for name, t in stored.items()},
        path,
        {"format": "pt"},
    )


def _as_fp32(name: str, matrix: Tensor) -> dict[str, Tensor]:
    return {name: matrix.float()}


def _as_fp16(name: str, matrix: Tensor) -> dict[str, Tensor]:
    return {name: matrix.half()}


def _as_int8(name: str, matrix: Tensor) -> dict[str, Tensor]:
    scale = matrix.float().abs().amax(dim=1) / _LARGEST_CODE
    codes = matrix.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    return {
        name + _CODES: codes.round().clamp(-_LARGEST_CODE, _LARGEST_CODE).to(torch.int8),
        name + _SCALE: scale,
    }


_COMPRESS: dict[str, Callable[[str, Tensor], dict[str, Tensor]]] = {
    "fp32": _as_fp32,
    "fp16": _as_fp16,
    "int8": _as_int8,
}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as stored.

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors file.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; copy the whole folder again") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}); copy or download it again"
        ) from error


def expand(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor in full precision, in memory of its own; integer tensors that are no codes stay.

    Raises:
        CheckpointError: the scale of an 8-bit matrix is missing or does not fit it.
    """
    coded = {name.removesuffix(_CODES) for name in tensors if name.endswith(_CODES)}
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        base = name.removesuffix(_CODES)
        if base != name:
            plain[base] = _decode(base, tensor, tensors.get(base + _SCALE))
        elif name.removesuffix(_SCALE) not in coded or not name.endswith(_SCALE):
            plain[name] = (
                tensor.to(torch.float32, copy=True) if tensor.is_floating_point() else tensor.clone()
            )
    return plain


def _decode(name: str, codes: Tensor, scale: Tensor | None) -> Tensor:
    if codes.ndim != 2 or codes.dtype != torch.int8 or scale is None or scale.shape != codes.shape[:1]:
        found = "missing" if scale is None else f"of shape {tuple(scale.shape)}"
        raise CheckpointError(
            f"{name}{_CODES} is {codes.dtype} of shape {tuple(codes.shape)} and its {name}{_SCALE} "
            f"is {found}; an 8-bit matrix needs one scale a row"
        )
    return codes.float() * scale.float()[:, None]
