"""Give a trained or pretrained model a new config, keeping every weight that still means the same."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from magic_pyramid.config import ExitConfig, ModelConfig
from magic_pyramid.exiting.heads import init_head
from magic_pyramid.model import PyramidModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    """The new model, and where its parameters come from."""

    model: PyramidModel
    taken: tuple[str, ...]
    """Names of the parameters copied from the old model."""
    fresh: tuple[str, ...]
    """Names of the parameters initialised anew."""


def with_config(model: PyramidModel, config: ModelConfig, *, seed: int = 0) -> Reconfigured:
    """A new model with the old one's weights where names, shapes and meaning agree.

    Encoder weights are taken where their shapes agree. The final head is taken if its kind agrees, its last
    matrix only if the labels agree too. Exit heads are taken if their kind and the labels agree, the pruner's
    values if they start from the same. What is new is initialised from ``seed``, and the old model stays.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = PyramidModel(config)
        # Drawn again, so that a head starts alike whatever else its method has.
        torch.manual_seed(seed)
        for head in (new.final_head, *new.exit_heads.values()):
            init_head(head)
    target = new.state_dict()
    source = model.state_dict()
    outdated = tuple(_outdated(model.config, config))
    taken = {
        name: source[name]
        for name, tensor in target.items()
        if name in source and source[name].shape == tensor.shape and not name.startswith(outdated)
    }
    new.load_state_dict(taken, strict=False)
    return Reconfigured(
        model=new.train(model.training),
        taken=tuple(taken),
        fresh=tuple(name for name in target if name not in taken),
    )


def _outdated(old: ModelConfig, new: ModelConfig) -> Iterator[str]:
    """Beginnings of the names whose old weights mean something else under the new config."""
    labels_differ = (old.labels, old.problem_type) != (new.labels, new.problem_type)
    if _final_head_kind(old) != _final_head_kind(new):
        yield "final_head."
    elif labels_differ:
        yield "final_head.output."
    if labels_differ or _head_kind(old.exit) != _head_kind(new.exit):
        yield "exit_heads."
    if (old.prune and old.prune.start) != (new.prune and new.prune.start):
        yield "pruner."


def _final_head_kind(config: ModelConfig) -> object:
    return config.final_head_kind, config.final_head_kind == "fastbert" and _head_kind(
        config.exit or ExitConfig()
    )[1:]


def _head_kind(exits: ExitConfig | None) -> tuple[object, ...]:
    return (exits.head, exits.head_size, exits.head_attention_heads) if exits else ()
