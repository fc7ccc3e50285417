"""The packed model: three maskings, the penalty, what learns, and what a stage may freeze together."""

import pytest
import torch

import tiny
from magic_pyramid.config import PruneConfig

TOLERANCE = 1e-5
LENGTHS = (9, 2, 6)
GROUPS = ("backbone", "final_head", "thresholds", "exit_heads")


def forward(model, *, masking, exits=False, lengths=LENGTHS):
    with torch.no_grad():
        return model(tiny.packed(*lengths), masking=masking, exits=exits)


def soft_masks(model, *, lengths=LENGTHS):
    """The soft mask of each layer, in packed order."""
    with torch.no_grad():
        state = model.begin(tiny.packed(*lengths))
        masks = []
        for layer in range(3):
            state = model.mask_softly(state, layer)
            masks.append(state.soft_mask)
    return masks


def test_the_output_has_a_row_for_each_sequence():
    output = forward(tiny.build(), masking="hard", exits=True)
    assert output.logits.shape == (3, 3)
    assert {layer: logits.shape for layer, logits in output.exit_logits.items()} == {0: (3, 3), 1: (3, 3)}
    assert output.num_tokens.shape == (3, 3)
    assert output.penalty.tolist() == [0.0] * 3


def test_exit_heads_are_asked_only_where_they_stand_and_when_wanted():
    model = tiny.build(tiny.changed(exit={"layers": (1,)}))
    assert list(forward(model, masking="hard", exits=True).exit_logits) == [1]
    assert not forward(model, masking="hard").exit_logits
    assert not forward(tiny.build(tiny.PLAIN), masking="none", exits=True).exit_logits


def test_without_a_pruner_all_maskings_are_the_same():
    model = tiny.build(tiny.PLAIN)
    outputs = [forward(model, masking=masking) for masking in ("none", "soft", "hard")]
    assert all(torch.equal(output.logits, outputs[0].logits) for output in outputs)
    assert outputs[0].num_tokens.tolist() == [[9] * 3, [2] * 3, [6] * 3]


def test_no_masking_keeps_every_token_of_a_model_that_prunes():
    output = forward(tiny.build(), masking="none")
    assert output.num_tokens.tolist() == [[9] * 3, [2] * 3, [6] * 3]


def test_hard_masking_removes_tokens_layer_by_layer():
    counts = forward(tiny.build(), masking="hard").num_tokens
    assert (counts >= 1).all()
    assert (counts.diff(dim=1) <= 0).all()
    assert int(counts[0, 2]) < 9


def test_the_models_own_scale_is_used_unless_another_is_given():
    model = tiny.build(tiny.changed(prune={"scale": 0.0}))
    state = model.begin(tiny.packed(9))
    with torch.no_grad():
        assert model.remove_tokens(state, 2).batch.num_tokens == 9
        assert model.remove_tokens(state, 2, scale=8.0).batch.num_tokens < 9


def test_a_forward_pass_removes_at_the_scale_it_is_given():
    model = tiny.build()
    inputs = tiny.packed(*LENGTHS)
    tokens = [int(model(inputs, masking="hard", scale=scale).num_tokens.sum()) for scale in (0.0, 0.5, 1.0)]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[0] == 3 * sum(LENGTHS)
    assert tokens[2] == int(model(inputs, masking="hard").num_tokens.sum()) < tokens[0]


def test_run_time_settings_are_taken_over():
    model = tiny.build()
    before = forward(model, masking="hard").num_tokens
    model.configure(tiny.changed(prune={"scale": 0.0}))
    assert forward(model, masking="hard").num_tokens.tolist() == [[9] * 3, [2] * 3, [6] * 3]
    model.configure(tiny.CONFIG)
    assert torch.equal(forward(model, masking="hard").num_tokens, before)


def test_mass_and_kept_tell_what_happened_in_the_layer():
    model = tiny.build(tiny.changed(prune={"manual_thresholds": (0.0, 1e-9, 1.0)}))
    with torch.no_grad():
        first = model.remove_tokens(model.begin(tiny.packed(*LENGTHS)), 0)
        second = model.remove_tokens(first, 1)
        third = model.remove_tokens(second, 2)
    assert first.mass is None
    assert first.kept is None
    assert second.kept is None
    assert second.mass is not None
    assert float(second.mass.sum()) == pytest.approx(17, abs=1e-4)
    assert third.kept is not None
    assert third.kept.nonzero().flatten().tolist() == [0, 9, 11]
    assert third.batch.lengths.tolist() == [1, 1, 1]
    assert third.input_lengths.tolist() == [9, 2, 6]


@pytest.mark.parametrize("norm", ["valid", "padded"])
def test_the_penalty_is_the_mean_soft_mask_summed_over_layers(norm):
    model = tiny.build(tiny.changed(prune={"penalty_norm": norm, "temperature": 0.05}))
    widths = {"valid": LENGTHS, "padded": [max(LENGTHS)] * 3}[norm]
    by_hand = [
        sum(float(mask.split(LENGTHS)[row].sum()) / widths[row] for mask in soft_masks(model))
        for row in range(3)
    ]
    assert forward(model, masking="soft").penalty.tolist() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("norm", ["valid", "padded"])
def test_batch_mates_change_the_penalty_only_where_padding_counts(norm):
    model = tiny.build(tiny.changed(prune={"penalty_norm": norm, "temperature": 0.05}))
    together = forward(model, masking="soft", lengths=(6, 12)).penalty[0]
    alone = model(tiny.packed(6, 12).select_sequences(torch.tensor([True, False])), masking="soft").penalty[0]
    expected = alone if norm == "valid" else alone / 2
    torch.testing.assert_close(together, expected.detach(), atol=TOLERANCE, rtol=TOLERANCE)


def test_soft_masking_weights_the_output_of_the_layer():
    model = tiny.build(tiny.changed(prune={"temperature": 0.05}))
    state = model.begin(tiny.packed(*LENGTHS))
    with torch.no_grad():
        plain, soft = model.keep_all(state, 2), model.mask_softly(state, 2)
    torch.testing.assert_close(
        soft.hidden_states, plain.hidden_states * soft.soft_mask[:, None], atol=TOLERANCE, rtol=TOLERANCE
    )
    assert soft.batch.num_tokens == 17
    assert float(soft.soft_mask.min()) < 0.5


def test_expected_tokens_are_what_all_masks_so_far_let_through():
    model = tiny.build(tiny.changed(prune={"temperature": 0.05}))
    survival = torch.stack(soft_masks(model)).cumprod(0)
    by_hand = [[float(part.sum()) for part in layer.split(LENGTHS)] for layer in survival]
    output = forward(model, masking="soft")
    torch.testing.assert_close(output.expected_tokens.T, torch.tensor(by_hand))
    assert [len(mass) for mass in output.masses] == [sum(LENGTHS)] * 3
    assert forward(model, masking="none").masses == ()


@pytest.mark.parametrize("norm", ["kept", "input", "fixed"])
def test_the_soft_keep_set_becomes_the_hard_one_as_temperature_falls(norm):
    fields = {"score_norm": norm, "fixed_length": 8, "manual_thresholds": (0.08, 0.0, 0.0)}
    state_of = {}
    for temperature in (0.05, 1e-6):
        model = tiny.build(tiny.changed(prune={**fields, "temperature": temperature}))
        with torch.no_grad():
            start = model.begin(tiny.packed(12, 9, 5))
            state_of[temperature] = model.mask_softly(start, 0)
            hard = model.remove_tokens(start, 0)
    soft = state_of[1e-6].soft_mask
    assert hard.kept is not None
    assert not hard.kept.all()
    torch.testing.assert_close(soft, hard.kept.float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        state_of[1e-6].hidden_states[hard.kept], hard.hidden_states, atol=TOLERANCE, rtol=TOLERANCE
    )
    assert not torch.equal(state_of[0.05].soft_mask, soft)


def test_soft_masking_counts_tokens_weighted_over_one_half():
    model = tiny.build(tiny.changed(prune={"temperature": 1e-6, "manual_thresholds": (0.08,) * 3}))
    masks = soft_masks(model)
    expected = torch.stack([torch.stack([(p > 0.5).sum() for p in m.split(LENGTHS)]) for m in masks], 1)
    assert torch.equal(forward(model, masking="soft").num_tokens, expected)


def test_thresholds_and_backbone_learn_from_the_soft_mask():
    model = tiny.build(tiny.changed(prune={"temperature": 0.05}))
    model(tiny.packed(*LENGTHS), masking="soft").penalty.mean().backward()
    assert model.pruner.delta.grad is not None
    assert (model.pruner.delta.grad < 0).all()
    assert model.layers[0].attention.qkv.weight.grad.abs().sum() > 0


def test_hard_masking_trains_the_backbone_and_not_the_thresholds():
    model = tiny.build()
    model(tiny.packed(*LENGTHS), masking="hard").logits.square().sum().backward()
    assert model.pruner.delta.grad is None
    assert model.layers[0].attention.qkv.weight.grad.abs().sum() > 0


def test_every_parameter_belongs_to_one_group():
    model = tiny.build()
    groups = [{id(p) for p in model.parameter_group(name)} for name in GROUPS]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(list(model.parameters()))
    assert groups[2] == {id(model.pruner.delta)}


def test_a_plain_model_has_no_thresholds_and_no_exit_heads():
    model = tiny.build(tiny.PLAIN)
    assert model.parameter_group("thresholds") == []
    assert model.parameter_group("exit_heads") == []


def test_the_state_of_the_pruner_is_part_of_the_weights():
    names = {name for name in tiny.build().state_dict() if name.startswith("pruner.")}
    assert names == {"pruner.initial", "pruner.delta"}


def test_a_saved_state_brings_thresholds_back():
    model = tiny.build()
    with torch.no_grad():
        model.pruner.delta.copy_(torch.tensor([0.01, 0.02, -0.5]))
    other = tiny.build(tiny.CONFIG.replace(prune=PruneConfig(final_threshold=0.7)), seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.pruner.token_thresholds, model.pruner.token_thresholds)


def test_sequences_that_leave_take_their_tokens_along():
    model = tiny.build()
    state = model.begin(tiny.packed(*LENGTHS))
    smaller = model.regroup(state.select_sequences(torch.tensor([True, False, True])))
    assert smaller.batch.lengths.tolist() == [9, 6]
    assert smaller.batch.sequence_ids.tolist() == [0, 2]
    assert torch.equal(smaller.hidden_states, state.hidden_states[[*range(9), *range(11, 17)]])
    assert smaller.input_lengths.tolist() == [9, 6]


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_a_step_without_autograd_equals_one_with_it(name):
    model = tiny.build(tiny.CONFIG.replace(backbone=tiny.FAMILIES[name]))
    with torch.inference_mode():
        fast = model(tiny.packed(*LENGTHS), masking="hard").logits.clone()
    assert torch.equal(model(tiny.packed(*LENGTHS), masking="hard").logits.detach(), fast)
