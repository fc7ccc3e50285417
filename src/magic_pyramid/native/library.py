"""The compiled engine as Python sees it: one class around the C interface."""

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from magic_pyramid.errors import CheckpointError, ConfigError, InputError, MissingExtraError, nearest
from magic_pyramid.native.build import LIBRARY, source_hash

REBUILD = "python -m magic_pyramid.native.build"


class Shape(ctypes.Structure):
    """``mp_shape``: what the model is."""

    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in (
                "vocab_size", "hidden_size", "num_layers", "num_heads", "intermediate_size", "embedding_size",
                "num_positions", "position_offset", "num_types", "num_labels",
                "hidden_act", "head_act", "problem", "final_head",
                "exit_head", "exit_head_size", "exit_head_heads",
                "criterion",
                "prunes", "divisor", "fixed_length",
                "separator", "max_distance", "int8",
            )
        ),
        ("layer_norm_eps", ctypes.c_float),
        ("patience_tolerance", ctypes.c_float),
    ]  # fmt: skip


class Batch(ctypes.Structure):
    """``mp_batch``: packed inputs, and where the answers go."""

    _fields_ = [
        ("token_ids", ctypes.c_void_p),
        ("token_types", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        ("num_sequences", ctypes.c_int64),
        ("prune_scale", ctypes.c_float),
        ("exit_thresholds", ctypes.c_void_p),
        ("tests_exit", ctypes.c_void_p),
        ("all_logits", ctypes.c_void_p),
        ("logits", ctypes.c_void_p),
        ("exit_layer", ctypes.c_void_p),
        ("num_tokens", ctypes.c_void_p),
    ]


def instruction_sets() -> tuple[str, ...]:
    """What the compiled engine can use on this processor, best first.

    Raises:
        MissingExtraError: it is not compiled, or from other sources.
    """
    return tuple(_library().mp_instruction_sets().decode().split())


def is_built() -> bool:
    """Whether the compiled engine is there and can be used."""
    try:
        _library()
    except MissingExtraError:
        return False
    return True


class NativeModel:
    """Weights in the order of the kernels; any number of threads may run it."""

    def __init__(
        self,
        shape: Shape,
        tensors: Mapping[str, np.ndarray],
        *,
        threads: int,
        instruction_set: str | None = None,
    ) -> None:
        """Prepare the weights, which are not needed afterwards.

        Args:
            shape: what the model is.
            tensors: weights by our names, fp32.
            threads: threads that share a batch.
            instruction_set: one of ``instruction_sets()``; None: the best.

        Raises:
            MissingExtraError: the engine is not compiled.
            ConfigError: the processor has no such instructions.
            CheckpointError: a tensor is missing or does not fit.
        """
        self._engine = None
        self._library = _library()
        chosen = instruction_set or instruction_sets()[0]
        if chosen not in instruction_sets():
            raise ConfigError(f"instruction_set is {chosen!r}; {nearest(chosen, instruction_sets())}")
        self._engine = self._library.mp_create(ctypes.byref(shape), chosen.encode())
        held = {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}
        for name, value in held.items():
            self._library.mp_set(self._engine, name.encode(), value.ctypes.data, value.size)
        if self._library.mp_prepare(self._engine, threads):
            raise CheckpointError(f"the weights do not fit the config: {self._error()}")

    def run(
        self,
        *,
        token_ids: Int32[np.ndarray, " tokens"],
        token_types: Int32[np.ndarray, " types"] | None,
        starts: Int64[np.ndarray, " seqs_plus_1"],
        prune_scale: float,
        exit_thresholds: Float32[np.ndarray, " layers"],
        tests_exit: UInt8[np.ndarray, " layers"],
        all_logits: Float32[np.ndarray, "layers seqs labels"] | None = None,
        logits: Float32[np.ndarray, "seqs labels"],
        exit_layer: Int64[np.ndarray, " seqs"],
        num_tokens: Int64[np.ndarray, "seqs layers_plus_1"],
    ) -> None:
        """Answer packed sequences into the last three arrays; into ``all_logits`` goes what every head says.

        Raises:
            InputError: a token id, type or length is out of range, memory ran out, or every head is to
                speak although some may let a sequence go.
        """
        tokens = int(starts[-1])
        lengths = [len(token_ids), tokens if token_types is None else len(token_types)]
        if lengths != [tokens, tokens]:
            raise InputError(
                f"there are {lengths[0]} token ids and {lengths[1]} token types for {tokens} tokens; "
                "every token needs one of each"
            )
        batch = Batch(
            token_ids=token_ids.ctypes.data,
            token_types=None if token_types is None else token_types.ctypes.data,
            starts=starts.ctypes.data,
            num_sequences=len(starts) - 1,
            prune_scale=prune_scale,
            exit_thresholds=exit_thresholds.ctypes.data,
            tests_exit=tests_exit.ctypes.data,
            all_logits=None if all_logits is None else all_logits.ctypes.data,
            logits=logits.ctypes.data,
            exit_layer=exit_layer.ctypes.data,
            num_tokens=num_tokens.ctypes.data,
        )
        if self._library.mp_run(self._engine, ctypes.byref(batch)):
            raise InputError(f"the native engine cannot answer: {self._error()}")

    def _error(self) -> str:
        return str(self._library.mp_error().decode())

    def __del__(self) -> None:
        if self._engine:
            self._library.mp_destroy(self._engine)


@cache
def _library() -> Any:
    path = Path(__file__).with_name(LIBRARY)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        reason = f"cannot be loaded ({error})" if path.exists() else "is not built"
        raise MissingExtraError(f"the native engine {reason}: {REBUILD} (needs a C++ compiler)") from None
    library.mp_source_hash.restype = ctypes.c_char_p
    if library.mp_source_hash().decode() != source_hash():
        raise MissingExtraError(f"the native engine was built from other sources: {REBUILD}")
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "mp_instruction_sets": (ctypes.c_char_p, []),
        "mp_create": (ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]),
        "mp_set": (None, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64]),
        "mp_prepare": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_int]),
        "mp_run": (ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p]),
        "mp_error": (ctypes.c_char_p, []),
        "mp_destroy": (None, [ctypes.c_void_p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
