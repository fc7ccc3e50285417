"""The linear layer: the same numbers whichever way it multiplies, and never stale weights."""

import copy

import pytest
import torch
from torch.nn import functional

from magic_pyramid import linear as module
from magic_pyramid.activations import ACTIVATIONS
from magic_pyramid.linear import Linear

TOLERANCE = 1e-5


def layer(activation=None):
    torch.manual_seed(0)
    return Linear(48, 33, activation=activation)


def expected(part, rows):
    product = functional.linear(rows, part.weight, part.bias)
    return product if part.activation is None else ACTIVATIONS[part.activation](product)


@pytest.mark.parametrize("rows", [0, 1, 3, 17, 200])
@pytest.mark.parametrize("activation", [None, *sorted(ACTIVATIONS)])
def test_inference_gives_what_training_gives(rows, activation):
    part, states = layer(activation), torch.randn(rows, 48)
    wanted = expected(part, states)
    torch.testing.assert_close(part(states), wanted, atol=0, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(part(states), wanted, atol=TOLERANCE, rtol=TOLERANCE)


def test_changed_weights_are_seen():
    part, states = layer(), torch.randn(5, 48)
    with torch.inference_mode():
        part(states)
    with torch.no_grad():
        part.weight.mul_(2.0)
    with torch.inference_mode():
        torch.testing.assert_close(part(states), expected(part, states), atol=TOLERANCE, rtol=TOLERANCE)
    part.load_state_dict({"weight": torch.ones(33, 48), "bias": torch.zeros(33)})
    with torch.inference_mode():
        torch.testing.assert_close(part(states), expected(part, states), atol=1e-4, rtol=TOLERANCE)
    part.weight = torch.nn.Parameter(torch.zeros(33, 48))
    with torch.inference_mode():
        assert not part(states).any()


def test_what_a_fused_optimiser_changed_is_seen():
    part, states = layer(), torch.randn(5, 48)
    with torch.inference_mode():
        part(states)
    optimizer = torch.optim.AdamW(part.parameters(), lr=0.1, fused=True)
    part(states).square().sum().backward()
    optimizer.step()
    with torch.inference_mode():
        torch.testing.assert_close(part(states), expected(part, states), atol=TOLERANCE, rtol=TOLERANCE)


def test_a_copy_follows_its_own_weights():
    part, states = layer(), torch.randn(5, 48)
    with torch.inference_mode():
        before = part(states)
    other = copy.deepcopy(part)
    with torch.no_grad():
        other.weight.zero_()
        other.bias.zero_()
    with torch.inference_mode():
        assert not other(states).any()
        assert torch.equal(part(states), before)


def test_the_parameters_are_those_of_a_plain_layer():
    part = layer("gelu")
    with torch.inference_mode():
        part(torch.randn(2, 48))
    assert set(part.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_number_types_take_the_plain_product(dtype):
    part, states = layer("relu").to(dtype), torch.randn(4, 48, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(part(states), expected(part, states))


def test_without_prepared_kernels_the_product_is_plain(monkeypatch):
    monkeypatch.setattr(module, "_PREPARE", None)
    part, states = layer("tanh"), torch.randn(4, 48)
    with torch.inference_mode():
        assert torch.equal(part(states), expected(part, states))
