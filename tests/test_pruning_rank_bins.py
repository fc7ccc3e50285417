"""Learned shares of a ranking: hard-concrete variables, their most likely form, what is really removed."""

import math

import pytest
import torch

import tiny
from magic_pyramid.config import RankBinsConfig
from magic_pyramid.engine.interface import Setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import ConfigError
from magic_pyramid.packing import pack_sequences
from magic_pyramid.pruning.hard_concrete import LARGEST, SHIFT, binarise, probability, sample
from magic_pyramid.pruning.interface import Attended
from magic_pyramid.pruning.rank_bins import RankBinsPruner

BATCH = pack_sequences([[2, 7, 8, 9, 10], [2, 7, 8]])
MASS = torch.tensor([9.0, 0.3, 1.5, 0.1, 0.9, 0.0, 0.2, 0.4])
"""By rank, [CLS] apart: tokens 2, 4, 1, 3 of the first sequence; 2, 1 of the second."""
ALL_LAYERS = (0, 1, 2)


def pruner(*, fine=(5.0, 5.0, 5.0, 5.0), coarse=5.0, **fields):
    """All layers have the same variables."""
    prune = RankBinsConfig(num_bins=len(fine), layers=ALL_LAYERS, **fields)
    part = RankBinsPruner(tiny.CONFIG.replace(prune=prune), prune)
    with torch.no_grad():
        part.fine.copy_(torch.tensor(fine))
        part.coarse.fill_(coarse)
    return part.eval()


def build(*, layers=ALL_LAYERS, num_bins=7, seed=3, **fields):
    """A model whose variables are random and whose layers all prune."""
    config = tiny.CONFIG.replace(prune=RankBinsConfig(layers=layers, num_bins=num_bins, **fields))
    model = tiny.build(config, seed=seed)
    assert isinstance(model.pruner, RankBinsPruner)
    with torch.no_grad():
        model.pruner.fine.normal_(std=3.0)
        model.pruner.coarse.fill_(2.0)
    return model


def seen(mass=MASS, batch=BATCH, soft_mask=None):
    return Attended(batch=batch, mass=mass, input_lengths=batch.lengths, soft_mask=soft_mask)


def kept(part, *, scale=1.0):
    mask = part.keep_mask(0, seen(), scale=scale)
    return [row.nonzero().flatten().tolist() for row in mask.split(BATCH.lengths.tolist())]


@pytest.mark.parametrize("alpha", [-4.0, -1.6, 0.0, 2.0])
def test_h11_a_variable_is_not_zero_with_the_probability_of_the_formula(alpha):
    assert pytest.approx(1.5986, abs=1e-4) == SHIFT
    torch.manual_seed(0)
    drawn = sample(torch.full((40_000,), alpha))
    expected = 1 / (1 + math.exp(-(alpha + 1.5986)))
    assert float((drawn != 0).float().mean()) == pytest.approx(expected, abs=0.01)
    assert float(probability(torch.tensor(alpha))) == pytest.approx(expected, abs=1e-4)
    assert drawn.min() >= 0
    assert drawn.max() <= 1


def test_a_variable_reaches_one_exactly_and_has_a_gradient_between():
    torch.manual_seed(0)
    alpha = torch.zeros(1000, requires_grad=True)
    drawn = sample(alpha)
    drawn.sum().backward()
    inside = (drawn > 0) & (drawn < 1)
    assert bool((drawn == 1).any())
    assert torch.equal(alpha.grad != 0, inside)


def test_a_binarised_value_keeps_its_gradient():
    values = torch.tensor([0.2, 0.5, 0.7], requires_grad=True)
    rounded = binarise(values)
    (rounded * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert rounded.tolist() == [0.0, 0.0, 1.0]
    assert values.grad.tolist() == [1.0, 2.0, 3.0]


def test_before_training_no_layer_prunes_and_every_bin_is_likely():
    prune = RankBinsConfig()
    part = RankBinsPruner(tiny.CONFIG.replace(prune=prune), prune)
    assert not any(part.prunes_at(layer, scale=1.0) for layer in range(3))
    assert list(part.rows) == [1]
    assert float(probability(part.fine.detach()).min()) == pytest.approx(0.998, abs=1e-3)
    assert float(probability(part.coarse.detach()[0])) == pytest.approx(0.047, abs=1e-3)
    assert part.learned() == {"keep_ratios": [1.0, 1.0, 1.0]}


def test_a_layer_prunes_once_that_is_likely():
    low = (-5.0,) * 4
    assert not pruner(fine=low, coarse=-1.61).prunes_at(0, scale=1.0)
    assert pruner(fine=low, coarse=-1.59).prunes_at(0, scale=1.0)
    assert not pruner(fine=low).prunes_at(0, scale=0.0)


@pytest.mark.parametrize(
    ("fine", "expected"),
    [
        ((5.0, 5.0, 5.0, -5.0), [True, True, True, False]),
        ((5.0, -5.0, 5.0, 5.0), [True, False, True, True]),
        # The chances to stay add up to 2.6, so one bin goes: the least likely.
        ((9.0, -1.5986, 9.0, -2.0), [True, True, True, False]),
        ((9.0, -3.0, -3.0, 9.0), [True, False, False, True]),
        # Equally likely: the lowest rank goes first.
        ((-0.5, -0.5, -0.5, -0.5), [True, True, True, False]),
    ],
    ids=["the last", "a hole", "in sum", "two", "ties"],
)
def test_the_least_likely_bins_go_as_many_as_are_unlikely_in_sum(fine, expected):
    assert pruner(fine=fine).kept_bins(0).tolist() == expected


def test_the_share_is_kept_from_the_top_whatever_the_bins_are():
    part = pruner(fine=(-5.0, 5.0, 5.0, 5.0))
    assert kept(part) == [[0, 1, 2, 4], [0, 1, 2]]
    part = pruner(fine=(-5.0, -5.0, 5.0, 5.0))
    assert kept(part) == [[0, 2, 4], [0, 2]]
    assert part.learned() == {"keep_ratios": [0.5, 0.5, 0.5]}


def test_bins_keep_exactly_their_tokens():
    part = pruner(fine=(-5.0, 5.0, 5.0, -5.0), selection="bins")
    assert kept(part) == [[0, 1, 4], [0, 1]]


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("ranked_topk", {0.5: [0, 1, 2, 4], 1.0: [0, 2, 4], 1.5: [0, 2], 2.0: [0], 50.0: [0]}),
        ("bins", {0.5: [0, 1, 4, 3], 1.0: [0, 3, 4], 1.5: [0, 4], 2.0: [0], 50.0: [0]}),
    ],
)
def test_the_scale_multiplies_the_share_removed(selection, expected):
    part = pruner(fine=(-5.0, 5.0, -4.0, 4.0), selection=selection)
    assert {scale: kept(part, scale=scale)[0] for scale in expected} == {
        scale: sorted(tokens) for scale, tokens in expected.items()
    }


def test_in_evaluation_mode_the_soft_mask_is_the_keep_mask():
    part = pruner(fine=(4.0, -5.0, 5.0, -5.0), selection="bins")
    torch.testing.assert_close(part.soft_mask(0, seen()), part.keep_mask(0, seen(), scale=1.0).float())


def test_soft_masks_multiply_and_dead_tokens_leave_the_ranking():
    part = pruner(fine=(5.0, -5.0, 5.0, 5.0))
    earlier = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.5, 1.0, 1.0, 1.0])
    # Ranks without token 2: 4, 1, 3 in bins 0, 1, 2.
    assert part.soft_mask(0, seen(soft_mask=earlier)).tolist() == [1.0, 0.0, 0.0, 1.0, 0.5, 1.0, 1.0, 1.0]


def test_a_layer_that_is_no_candidate_passes_the_weights_on():
    prune = RankBinsConfig(layers=(1,))
    part = RankBinsPruner(tiny.CONFIG.replace(prune=prune), prune)
    earlier = torch.rand(8)
    assert part.soft_mask(0, seen()).tolist() == [1.0] * 8
    assert torch.equal(part.soft_mask(2, seen(soft_mask=earlier)), earlier)


def test_training_draws_the_variables_and_both_kinds_learn():
    torch.manual_seed(1)
    part = pruner(fine=(0.0,) * 4, coarse=0.0).train()
    totals = set()
    for _ in range(20):
        weights = part.soft_mask(1, seen())
        assert weights[[0, 5]].tolist() == [1.0, 1.0]
        totals.add(round(float(weights.detach().sum()), 4))
        weights.sum().backward()
    assert len(totals) > 5
    for parameter in (part.fine, part.coarse):
        assert bool((parameter.grad[1] != 0).all())
        assert not bool(parameter.grad[[0, 2]].any())


def test_variables_return_to_where_they_learn_after_a_step():
    part = pruner(fine=(9.0, -9.0, 1.0, 1.0), coarse=-9.0)
    part.settle()
    assert part.fine[0].tolist() == pytest.approx([LARGEST, -LARGEST, 1.0, 1.0])
    assert part.coarse.tolist() == pytest.approx([-LARGEST] * 3)


@pytest.mark.parametrize("selection", ["ranked_topk", "bins"])
def test_how_many_tokens_stay_follows_from_the_length_alone(selection):
    model, lengths = build(selection=selection), (9, 2, 14, 1, 20, 31)
    output = TorchEngine(model).run(tiny.encoded(*lengths), setting=Setting())
    counts = torch.tensor(lengths)
    for layer in ALL_LAYERS:
        counts = model.pruner.num_kept(layer, counts)
        assert output.num_tokens[:, layer + 1].tolist() == counts.tolist()


def test_long_inputs_keep_the_same_share_as_short_ones():
    part = pruner(fine=(5.0, 5.0, 5.0, -5.0))
    assert part.num_kept(0, torch.tensor([1, 2, 5, 41, 401])).tolist() == [1, 2, 4, 31, 301]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"selection": "topk"}, r"prune\.selection is 'topk'; did you mean 'ranked_topk'"),
        ({"num_bins": 0}, r"prune\.num_bins is 0; it must lie in"),
        ({"scale": -1.0}, r"prune\.scale is -1\.0; it must lie in"),
        ({"kind": "threshold"}, r"prune\.kind is 'threshold'; known: rank_bins"),
        ({"layers": (1, 3)}, r"prune\.layers contains 3; the layers are 0 to 2"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        tiny.CONFIG.replace(prune=RankBinsConfig(**fields))
