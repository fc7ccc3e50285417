"""A model that answers questions equals its definition: tokens really deleted, their states put back.

``reference`` is that definition: one sequence, plain loops. It equals ``oracle`` but for what becomes of the
tokens that leave: their last layer is run to its end, and the head reads them as they were then.
"""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from test_huggingface import DISTILBERT_SHAPE, SHAPE, ragged_inputs

import qa
import tiny
from magic_pyramid.checkpoint import load_model, to_huggingface
from magic_pyramid.config import SPAN_LABELS
from magic_pyramid.cost import CostModel
from magic_pyramid.engine.interface import DENSE, Setting, flops_of
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.exiting.heads import NOWHERE
from magic_pyramid.packing import pack, pack_sequences
from oracle_pruning import RULES, Layer

LENGTHS = (9, 2, 14, 9, 1, 5)
TOLERANCE = 1e-4
FAMILIES = {
    "bert": ("Bert", SHAPE),
    "roberta": ("Roberta", {**SHAPE, "type_vocab_size": 1}),
    "xlm-roberta": ("XLMRoberta", SHAPE),
    "camembert": ("Camembert", SHAPE),
    "electra": ("Electra", {**SHAPE, "embedding_size": 8}),
    "distilbert": ("DistilBert", DISTILBERT_SHAPE),
    "mpnet": ("MPNet", SHAPE),
}


@torch.no_grad()
def reference(model, token_ids, *, scale=1.0):
    """Give start and end logits of every token, and the positions alive after each layer."""
    config, count = model.config, len(token_ids)
    states = list(model.begin(pack_sequences([token_ids])).hidden_states)
    alive, history, received = list(range(count)), [], [0.0] * count
    for index in range(len(model.layers)):
        block = model.block(index)
        # A sequence of the tokens alive alone, at their own positions.
        batch = pack_sequences([[token_ids[position] for position in alive]])
        batch = type(batch)(**{**vars_of(batch), "position_ids": torch.tensor(alive)})
        state = model.regroup(replace_state(model, batch, torch.stack([states[p] for p in alive])))
        weights = block.attention.weigh(state.hidden_states, state.layout, state.bias, with_own_mass=True)
        mass, own = weights.mass.tolist(), weights.own_mass.tolist()
        after = block.finish(weights.context(), state.hidden_states)
        for place, position in enumerate(alive):
            states[position] = after[place]
            received[position] += mass[place]
        seen, so_far = [token_ids[p] for p in alive], [received[p] for p in alive]
        layer = Layer(index, scale, mass, seen, count, own, so_far)
        keep = range(len(alive))
        if config.prune and scale:
            keep = [0, *(i for i in RULES[config.prune.kind](model.pruner, layer) if i)]
        alive = [alive[i] for i in keep]
        history.append(alive)
    head = model.final_head.output
    return torch.stack([head(state) for state in states]).T, history


def vars_of(batch):
    names = ("token_ids", "position_ids", "token_type_ids", "cu_seqlens", "sequence_ids")
    return {name: getattr(batch, name) for name in names}


def replace_state(model, batch, hidden):
    state = model.begin(batch)
    return type(state)(
        batch=batch,
        hidden_states=hidden,
        layout=state.layout,
        bias=state.bias,
        input_lengths=state.input_lengths,
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("name", qa.CASES)
def test_logits_of_every_token_equal_the_reference(name, scale):
    model = qa.build(qa.CASES[name])
    encoded = tiny.encoded(*LENGTHS)

    output = TorchEngine(model).run(encoded, setting=Setting(prune_scale=scale))

    for row, ids in enumerate(encoded.token_ids):
        expected, history = reference(model, ids, scale=scale)
        assert output.num_tokens[row].tolist() == [len(ids), *map(len, history)]
        np.testing.assert_allclose(
            output.logits[row, :, : len(ids)], expected.numpy(), atol=TOLERANCE, rtol=TOLERANCE
        )
        assert (output.logits[row, :, len(ids) :] == NOWHERE).all()


def test_some_tokens_are_removed_at_each_depth_and_what_they_say_is_read():
    model = qa.build()
    output = TorchEngine(model).run(tiny.encoded(*LENGTHS), setting=Setting())
    lost = output.num_tokens[:, :-1] - output.num_tokens[:, 1:]
    assert (lost.sum(axis=0) > 0).all()


@pytest.mark.parametrize("name", ["thresholds", "shares of ranked tokens"])
def test_training_on_what_removal_leaves_reaches_removed_tokens(name):
    model = qa.build(qa.CASES[name])
    output = model(tiny.packed(9, 14), masking="hard")
    removed = (output.num_tokens[:, -1] < torch.tensor([9, 14])).all()
    assert removed
    output.logits[:, :, :9].sum().backward()
    assert model.final_head.output.weight.grad.abs().sum() > 0
    assert model.block(0).feedforward.up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["shares of ranked tokens", "counts"])
def test_soft_masks_of_one_and_zero_leave_tokens_as_removal_does(name):
    """In the limit of hard masks the head reads each token in the state of its last layer alive."""
    model = qa.build(qa.CASES[name])
    if name == "counts":
        with torch.no_grad():
            model.pruner.shares.zero_()
            model.pruner.shares[:, :4] = 1.0
    batch = tiny.packed(9, 14)
    with torch.no_grad():
        state, states = model.begin(batch), None
        for layer in range(3):
            earlier = state.survival
            state = model.mask_softly(state, layer)
            assert state.left is not None
            if earlier is not None:
                dead = earlier == 0
                assert torch.equal(state.left[dead], states[dead])
                assert not torch.equal(state.left[~dead], states[~dead])
            states = state.left
        assert (state.survival == 0).any()
        torch.testing.assert_close(model.answer(state), model.final_head(states, batch))


def test_the_dense_model_reads_no_state_of_an_earlier_layer():
    model = qa.build()
    batch = tiny.packed(9, 14)
    with torch.no_grad():
        dense, pruned = model(batch, masking="none").logits, model(batch, masking="hard", scale=0.0).logits
    torch.testing.assert_close(dense, pruned)
    assert qa.build(tiny.CONFIG).begin(batch).inputs is None


@pytest.mark.parametrize("setting", [DENSE, Setting()])
def test_receipts_charge_the_whole_last_layer_of_a_removed_token(setting):
    model = qa.build()
    encoded = tiny.encoded(*LENGTHS)
    flops = flops_of(model.config, TorchEngine(model).run(encoded, setting=setting), setting)
    d, f = 16, 24
    for row, ids in enumerate(encoded.token_ids):
        _, history = reference(model, ids, scale=setting.prune_scale)
        arriving = [len(ids), *map(len, history[:-1])]
        macs = sum(2 * d * n**2 + 4 * d * d * n + 2 * d * f * n for n in arriving) + 2 * d * len(ids)
        assert flops[row] == 2 * macs
    assert (flops <= CostModel(model.config).dense_flops(np.asarray(encoded.lengths))).all()


def their_model(name):
    stem, shape = FAMILIES[name]
    shape = {key: value for key, value in shape.items() if key != "num_labels"}
    config = getattr(transformers, f"{stem}Config")(**shape)
    generator = torch.Generator().manual_seed(7)
    model = getattr(transformers, f"{stem}ForQuestionAnswering")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_those_of_transformers(name, tmp_path):
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path)
    inputs = ragged_inputs(theirs)

    loaded = load_model(tmp_path)
    batch = pack(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        token_type_ids=inputs.get("token_type_ids"),
    )
    with torch.no_grad():
        expected, ours = theirs(**inputs), loaded.model(batch).logits

    assert loaded.info["new_parameters"] == []
    assert loaded.model.config.problem_type == "span"
    assert loaded.model.config.labels == SPAN_LABELS
    mask = inputs["attention_mask"].bool()
    for row, logits in enumerate((expected.start_logits, expected.end_logits)):
        width = mask.shape[1]
        torch.testing.assert_close(ours[:, row, :width][mask], logits[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_survives_the_way_there_and_back(name, tmp_path):
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")

    to_huggingface(load_model(tmp_path / "theirs").model, tmp_path / "back", encoder=None)

    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert sorted(after) == sorted(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    again = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "back")
    assert type(again) is type(theirs)
