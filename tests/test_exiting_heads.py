"""Exit heads: what they compute equals the plain formula over every query, whoever the mates are."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig
from magic_pyramid.exiting import build_head
from magic_pyramid.exiting.heads import BlockHead, ClsHead, FastBertHead, FirstTokenAttention, init_head
from magic_pyramid.layers.embeddings import init_weights
from magic_pyramid.packing import PackedBatch, pack_sequences

KINDS = ("fastbert", "cls", "block")
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def config(model_type: str = "bert", **backbone: Any) -> ModelConfig:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    shape: Any = {
        "model_type": model_type,
        "vocab_size": 30,
        "max_position_embeddings": 64,
        **sizes,
        **backbone,
    }
    return ModelConfig(
        backbone=BackboneConfig(**shape),
        labels=("a", "b", "c"),
        max_length=32,
        exit=ExitConfig(head_size=8, head_attention_heads=2),
    )


def batch_of(lengths: list[int]) -> PackedBatch:
    return pack_sequences([[1] * n for n in lengths])


def states_of(lengths: list[int], *, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(sum(lengths), size, generator=torch.Generator().manual_seed(seed))


def head_of(kind: Any, **backbone: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_head(config(**backbone), kind).eval()


def attend_with_every_query(attention: FirstTokenAttention, states: Tensor) -> Tensor:
    """Plain self-attention of one sequence; all rows of the result."""
    parts = [
        module(states).chunk(attention.num_heads, -1)
        for module in (attention.query, attention.key, attention.value)
    ]
    seen = [(q @ k.T / q.shape[-1] ** 0.5).softmax(-1) @ v for q, k, v in zip(*parts, strict=True)]
    return attention.output(torch.cat(seen, -1))


def reference(head: Any, states: Tensor) -> Tensor:
    """Logits of one sequence, with every query computed and all but the first thrown away."""
    if isinstance(head, FastBertHead):
        narrowed = head.narrow(states)
        return head.output(torch.tanh(head.dense(attend_with_every_query(head.attention, narrowed))))[0]
    if isinstance(head, BlockHead):
        states = head.attention_norm(states + attend_with_every_query(head.attention, states))
        states = head.output_norm(states + head.down(nn.functional.gelu(head.up(states))))
        head = head.classifier
    return head.output(torch.tanh(head.dense(states)))[0]


@pytest.mark.parametrize("lengths", [[1], [5], [3, 3], [1, 7, 4], [9, 1, 1]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_one_query_equals_every_query(kind, lengths):
    head, states = head_of(kind), states_of(lengths)
    logits = head(states, batch_of(lengths))
    expected = torch.stack([reference(head, part) for part in states.split(lengths)])
    assert logits.shape == (len(lengths), 3)
    torch.testing.assert_close(logits, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_every_query(kind):
    lengths, head = [2, 5, 1], head_of(kind)
    states = states_of(lengths).requires_grad_()
    head(states, batch_of(lengths)).square().sum().backward()
    ours = [states.grad.clone(), *(parameter.grad.clone() for parameter in head.parameters())]
    states.grad = None
    head.zero_grad()
    sum(reference(head, part).square().sum() for part in states.split(lengths)).backward()
    theirs = [states.grad, *(parameter.grad for parameter in head.parameters())]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_a_head_learns(kind):
    head = build_head(config(), kind).train()
    head(states_of([4, 3]), batch_of([4, 3])).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_batch_mates_do_not_change_the_answer(kind):
    head, lengths = head_of(kind), [4, 9, 2]
    states = states_of(lengths)
    together = head(states, batch_of(lengths))
    alone = torch.cat([head(part, batch_of([len(part)])) for part in states.split(lengths)])
    torch.testing.assert_close(together, alone, **TOLERANCE)


@pytest.mark.parametrize("kind", ["fastbert", "block"])
def test_only_the_first_position_is_special(kind):
    head, states = head_of(kind), states_of([6])
    shuffled = states[[0, 4, 2, 5, 1, 3]]
    torch.testing.assert_close(head(states, batch_of([6])), head(shuffled, batch_of([6])), **TOLERANCE)


@pytest.mark.parametrize(
    ("model_type", "head_act", "drops_input"),
    [
        ("bert", "tanh", False),
        ("distilbert", "relu", False),
        ("roberta", "tanh", True),
        ("electra", "gelu", True),
    ],
)
def test_cls_head_follows_its_family(model_type, head_act, drops_input):
    head = build_head(config(model_type, head_act=head_act), "cls")
    assert isinstance(head, ClsHead)
    states = states_of([3])
    activated = getattr(torch, head_act, getattr(nn.functional, head_act))(head.dense(states[:1]))
    torch.testing.assert_close(head.eval()(states, batch_of([3])), head.output(activated))
    assert (head.input_dropout.p, head.dropout.p) == (0.1 if drops_input else 0.0, 0.1)
    assert set(head.state_dict()) == {"dense.weight", "dense.bias", "output.weight", "output.bias"}


def test_dropout_acts_while_training_only():
    head = build_head(config(classifier_dropout=0.5), "fastbert").train()
    states, batch = states_of([8]), batch_of([8])
    assert not torch.equal(head(states, batch), head(states, batch))
    head.eval()
    assert torch.equal(head(states, batch), head(states, batch))


def test_fastbert_head_as_final_head_needs_no_exit_config():
    head = build_head(config().replace(exit=None, final_head="fastbert"), "fastbert")
    assert isinstance(head, FastBertHead)
    assert (head.narrow.out_features, head.attention.num_heads) == (128, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_run_in_bfloat16(kind):
    head = head_of(kind).to(torch.bfloat16)
    logits = head(states_of([3, 5]).bfloat16(), batch_of([3, 5]))
    assert logits.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(head_of(kind)(states_of([3, 5]), batch_of([3, 5]))).all()


@pytest.mark.parametrize("kind", ["fastbert", "cls", "block"])
def test_new_heads_answer_and_learn_at_full_size(kind):
    torch.manual_seed(0)
    wide = config(hidden_size=128, intermediate_size=256)
    batch = tiny.packed(9, 5, 7, 12)
    states = torch.randn(batch.num_tokens, 128, requires_grad=True)
    spread = []
    for starts in (init_weights, init_head):
        head = build_head(wide, kind).eval()
        starts(head)
        logits = head(states, batch)
        (gradient,) = torch.autograd.grad(logits.square().sum() / 2, states)
        spread.append((float(logits.detach().std()), float(gradient.norm())))
    (small_logits, small_gradient), (logits, gradient) = spread
    assert logits > 0.1 > small_logits
    assert gradient > 10 * small_gradient
