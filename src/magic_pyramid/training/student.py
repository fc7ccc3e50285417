"""Students: the layers that a shallower model keeps of its encoder, and how many meet a speed-up."""

from typing import Literal

import numpy as np
from jaxtyping import Int

from magic_pyramid.config import ModelConfig, TrainConfig
from magic_pyramid.cost import CostModel, flops_speedup
from magic_pyramid.errors import ConfigError


def kept_layers(model: ModelConfig, train: TrainConfig) -> tuple[int, ...] | None:
    """0-based layers of the encoder that a student keeps, ascending; None where it keeps all.

    Raises:
        ConfigError: the encoder has fewer, or the model also prunes or exits.
    """
    num_layers = model.backbone.num_hidden_layers
    if train.student_keeps == "all":
        return None
    if model.prune is not None or model.exit_layers:
        raise ConfigError(
            f"train.student_keeps is {train.student_keeps!r}, and this preset also prunes or exits; "
            "train the student first, and then give its folder as the model of this preset"
        )
    count = (num_layers + 1) // 2 if train.student_layers is None else train.student_layers
    if not 1 <= count <= num_layers:
        raise ConfigError(f"train.student_layers is {count}; this encoder has 1 to {num_layers} to keep")
    return chosen_layers(num_layers, count, keeps=train.student_keeps)


def chosen_layers(num_layers: int, count: int, *, keeps: Literal["first", "alternate"]) -> tuple[int, ...]:
    """So many 0-based layers: the first, or evenly spaced from the first to the last.

    Six of twelve are 0, 2, 4, 7, 9, 11, those that DistilBERT's program takes.
    """
    if keeps == "first" or count == 1:
        return tuple(range(count))
    return tuple(round(place * (num_layers - 1) / (count - 1)) for place in range(count))


def meet_by_depth(train: TrainConfig, model: ModelConfig, lengths: Int[np.ndarray, " rows"]) -> TrainConfig:
    """A student's speed-up over the whole encoder as a number of layers: the most that reach it.

    Args:
        train: how to train; without a student or a speed-up it comes back as it is.
        model: with the layers of the whole encoder.
        lengths: tokens of each train text.

    Raises:
        ConfigError: a number of layers is given as well, or a single layer is not fast enough.
    """
    asked = train.target_speedup
    if train.student_keeps == "all" or asked is None:
        return train
    if train.student_layers is not None:
        raise ConfigError(
            "train.target_speedup and train.student_layers both decide how deep the student is; give one"
        )
    whole, speedup = CostModel(model).dense_flops(lengths), 1.0
    for count in range(model.backbone.num_hidden_layers, 0, -1):
        speedup = flops_speedup(whole, CostModel(with_layers(model, count)).dense_flops(lengths))
        if speedup >= asked:
            return train.replace(student_layers=count, target_speedup=None)
    raise ConfigError(
        f"train.target_speedup is {asked:g}; a student of one layer reaches {speedup:.1f}; ask for less"
    )


def with_layers(model: ModelConfig, count: int) -> ModelConfig:
    """The same model with another number of layers."""
    return model.replace(backbone=model.backbone.replace(num_hidden_layers=count))
