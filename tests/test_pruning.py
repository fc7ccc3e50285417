"""Thresholds on importance, against numbers worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from magic_pyramid.config import PruneConfig
from magic_pyramid.packing import pack_sequences
from magic_pyramid.pruning.interface import Attended
from magic_pyramid.pruning.threshold import SMALLEST_THRESHOLD, ThresholdPruner, initial_thresholds

SEP = tiny.SEP
BATCH = pack_sequences([[2, 7, SEP, 8], [2, SEP]])
MASS = torch.tensor([0.5, 1.0, 0.3, 2.2, 0.4, 1.6])
INPUT_LENGTHS = torch.tensor([8, 2])


def pruner(**fields):
    fields.setdefault("manual_thresholds", (0.1, 0.2, 0.3))
    prune = PruneConfig(**fields)
    return ThresholdPruner(tiny.CONFIG.replace(prune=prune), prune)


def kept(part, *, layer=2, scale=1.0, mass=MASS):
    return part.keep_mask(layer, seen(mass=mass), scale=scale).tolist()


def seen(batch=BATCH, mass=MASS, input_lengths=INPUT_LENGTHS, soft_mask=None):
    return Attended(batch=batch, mass=mass, input_lengths=input_lengths, soft_mask=soft_mask)


@pytest.mark.parametrize(
    ("fields", "bars", "expected"),
    [
        # mass below threshold 0.3 times the count falls: tokens alive 4 and 2, of the input 8 and 2
        ({"score_norm": "kept"}, [1.2, 0.6], [True, False, False, True, True, True]),
        ({"score_norm": "input"}, [2.4, 0.6], [True, False, False, False, True, True]),
        ({"score_norm": "fixed", "fixed_length": 3}, [0.9, 0.9], [True, True, False, True, True, True]),
        (
            {"score_norm": "fixed", "fixed_length": 128},
            [38.4, 38.4],
            [True, False, False, False, True, False],
        ),
    ],
    ids=["kept", "input", "fixed 3", "fixed 128"],
)
def test_each_score_norm_by_hand(fields, bars, expected):
    part = pruner(**fields)
    found = part.mass_threshold(2, seen(), scale=1.0)
    torch.testing.assert_close(found, torch.tensor(bars))
    assert kept(part) == expected


def test_a_token_at_the_threshold_is_kept():
    part = pruner(manual_thresholds=(0.25, 0.25, 0.25))
    mass = torch.tensor([1.0, 1.0, 0.999, 1.001, 1.0, 1.0])
    assert kept(part, mass=mass) == [True, True, False, True, True, True]


def test_the_first_token_is_kept_whatever_it_receives():
    assert kept(pruner(manual_thresholds=(1.0,) * 3), mass=torch.zeros(6)) == [
        True,
        *[False] * 3,
        True,
        False,
    ]


def test_separators_are_kept_where_asked():
    part = pruner(manual_thresholds=(1.0,) * 3, protect_sep=True)
    assert kept(part, mass=torch.zeros(6)) == [True, False, True, False, True, True]


def test_separators_need_an_id_to_be_kept():
    prune = PruneConfig(protect_sep=True, manual_thresholds=(1.0,) * 3)
    backbone = tiny.BACKBONE.replace(sep_token_id=None)
    part = ThresholdPruner(tiny.CONFIG.replace(prune=prune, backbone=backbone), prune)
    assert kept(part, mass=torch.zeros(6)) == [True, *[False] * 3, True, False]


def test_the_run_time_scale_multiplies_the_threshold():
    part = pruner()
    assert kept(part, scale=1.0) == [True, False, False, True, True, True]
    assert kept(part, scale=2.0) == [True, False, False, False, True, True]
    assert kept(part, scale=0.5) == [True, True, False, True, True, True]


@given(st.floats(0.0, 4.0), st.floats(0.0, 4.0))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_higher_threshold_keeps_no_more_tokens(one, other):
    part = pruner()
    low, high = (kept(part, scale=max(scale, 1e-6)) for scale in sorted((one, other)))
    assert all(below or not above for below, above in zip(low, high, strict=True))


@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=3, max_size=12))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_the_printed_rule_would_keep_nothing(shares):
    """Keeping where importance minus threshold exceeds one half, as printed, keeps no token."""
    mass = torch.tensor(shares) + 1.0
    mass = mass / mass.sum() * len(shares)
    importance = mass / len(shares)
    threshold = 0.01
    assert not (importance - threshold > 0.5).any()
    batch = pack_sequences([[2, *[7] * (len(shares) - 1)]])
    part = pruner(manual_thresholds=(threshold,) * 3)
    assert bool(part.keep_mask(0, seen(batch, mass, batch.lengths), scale=1.0).all())


def test_thresholds_rise_linearly_from_one_or_from_zero():
    ramp = PruneConfig(final_threshold=0.08)
    torch.testing.assert_close(initial_thresholds(ramp, 4), torch.tensor([0.02, 0.04, 0.06, 0.08]))
    ramp = ramp.replace(threshold_index="zero_based")
    torch.testing.assert_close(initial_thresholds(ramp, 4), torch.tensor([0.0, 0.02, 0.04, 0.06]))


def test_manual_thresholds_are_taken_as_they_are():
    ramp = PruneConfig(manual_thresholds=(0.3, 0.0, 0.1), final_threshold=0.5)
    assert initial_thresholds(ramp, 3).tolist() == pytest.approx([0.3, 0.0, 0.1])


def test_the_learnt_difference_moves_a_threshold_but_not_below_zero():
    part = pruner()
    with torch.no_grad():
        part.delta.copy_(torch.tensor([0.05, -0.05, -1.0]))
    assert part.token_thresholds.tolist() == pytest.approx([0.15, 0.15, 0.0])
    assert part.prunes_at(0, scale=1.0)
    assert not part.prunes_at(2, scale=1.0)


def test_a_threshold_of_zero_removes_nothing_and_a_tiny_one_what_nobody_looks_at():
    part = pruner(manual_thresholds=(0.0, 1e-9, 0.1))
    assert not part.prunes_at(0, scale=1.0)
    assert part.prunes_at(1, scale=1.0)
    assert not part.prunes_at(1, scale=0.0)
    bar = part.mass_threshold(1, seen(), scale=1.0)
    torch.testing.assert_close(bar, SMALLEST_THRESHOLD * torch.tensor([4.0, 2.0]))


@pytest.mark.parametrize("learns", [True, False])
def test_thresholds_learn_only_where_asked(learns):
    part = pruner(learn_thresholds=learns)
    assert part.delta.requires_grad is learns
    assert [name for name, _ in part.named_parameters()] == ["delta"]
    assert [name for name, _ in part.named_buffers()] == ["initial"]


def soft(part, *, earlier=None):
    return part.soft_mask(2, seen(soft_mask=earlier))


def test_the_soft_mask_by_hand():
    weights = soft(pruner(temperature=0.1))
    importance = torch.tensor([0.5 / 4, 1.0 / 4, 0.3 / 4, 2.2 / 4, 0.4 / 2, 1.6 / 2])
    by_hand = 1 / (1 + torch.exp(-(importance - 0.3) / 0.1))
    by_hand[[0, 4]] = 1.0
    torch.testing.assert_close(weights, by_hand)


def test_the_first_token_is_weighted_only_where_asked():
    gated = soft(pruner(temperature=0.1, gate_cls=True))
    expected = torch.sigmoid(torch.tensor([(0.125 - 0.3) / 0.1, (0.2 - 0.3) / 0.1]))
    torch.testing.assert_close(gated[[0, 4]], expected)


def test_protected_separators_are_never_weighted_down():
    weights = soft(pruner(temperature=0.1, gate_cls=True, protect_sep=True))
    assert weights[[2, 5]].tolist() == [1.0, 1.0]
    assert float(weights[0].detach()) < 1.0


def test_the_gradient_of_a_threshold_is_that_of_the_sigmoid():
    part = pruner(temperature=0.1)
    weights = soft(part)
    weights.sum().backward()
    slope = -(weights * (1 - weights) / 0.1).detach().sum()
    torch.testing.assert_close(part.delta.grad, torch.tensor([0.0, 0.0, float(slope)]))
