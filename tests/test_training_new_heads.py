"""New [CLS] heads on a finished encoder start with inputs of mean 0 and spread 1; others stay."""

import pytest
import torch

from magic_pyramid.config import ExitConfig
from magic_pyramid.exiting.heads import build_head, init_head
from magic_pyramid.packing import pack_sequences
from magic_pyramid.training.new_heads import standardise_exit_heads
from training_toy import FAST, STILL, LetterEncoder, toy_data, toy_model, train_toy

CLS = STILL.replace(prune=None, exit=ExitConfig(head="cls"))
# Nothing learns: what the heads are at the end is what they started from.
APART = FAST.replace(
    epochs={"finetune": 1, "distill_exits": 1}, joint_exits=0.0, learning_rate_exits=0.0, weight_decay=0.0
)


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    return 5.0 + 0.01 * torch.randn(64, CLS.backbone.hidden_size, generator=generator)


def new_head():
    torch.manual_seed(0)
    head = build_head(CLS, "cls").eval()
    init_head(head)
    return head


def test_the_head_answers_as_it_would_on_standardised_states(states):
    head, plain = new_head(), new_head()
    head.standardise_inputs(states)
    spread, mean = torch.std_mean(states, dim=0, correction=0)
    wanted = plain.classify((states - mean) / spread)
    torch.testing.assert_close(head.classify(states), wanted, atol=1e-3, rtol=1e-3)
    assert wanted.std(dim=0).min() > 20 * plain.classify(states).std(dim=0).max()


def test_states_that_do_not_differ_give_finite_weights(states):
    head = new_head()
    head.standardise_inputs(states[:1])
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())


def test_heads_that_read_every_token_stay():
    config = CLS.replace(exit=ExitConfig(head="fastbert", head_size=8))
    model, plain = toy_model(config), toy_model(config)
    rows = LetterEncoder().encode([row.text for row in toy_data().splits["train"]], max_length=32)
    standardise_exit_heads(model, rows, masking="none")
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), plain.parameters(), strict=True))


def first_outputs(model):
    """What the first layer of the exit head sees of the train rows, and gives."""
    encoded = LetterEncoder().encode([row.text for row in toy_data().splits["train"]], max_length=32)
    batch = pack_sequences(encoded.token_ids)
    with torch.no_grad():
        state = model.eval().keep_all(model.begin(batch), 0)
        return model.exit_head(0).dense(state.hidden_states[batch.first_tokens])


def test_new_heads_meet_the_states_of_the_trained_encoder(tmp_path):
    model = toy_model(CLS)
    before = model.exit_head(0).dense.weight.clone()
    train_toy(model, tmp_path, config=APART, has_new_exit_heads=True)
    assert not torch.equal(before, model.exit_head(0).dense.weight)
    torch.testing.assert_close(first_outputs(model).mean(dim=0), torch.zeros(16), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("config", "is_new"),
    [(APART, False), (APART.replace(joint_exits=1.0), True)],
    ids=["trained before", "trained with the encoder"],
)
def test_heads_that_have_learned_stay(tmp_path, config, is_new):
    model = toy_model(CLS)
    before = model.exit_head(0).dense.weight.clone()
    train_toy(model, tmp_path, config=config, has_new_exit_heads=is_new)
    assert torch.equal(before, model.exit_head(0).dense.weight)


def test_an_interrupted_training_starts_its_heads_alike(tmp_path):
    class KilledError(Exception):
        pass

    def kill(event):
        if event.kind == "stage_started" and event.stage == "distill_exits":
            raise KilledError

    learning = APART.replace(learning_rate_exits=1e-2)
    whole, resumed = toy_model(CLS), toy_model(CLS)
    train_toy(whole, tmp_path / "whole", config=learning, has_new_exit_heads=True)
    with pytest.raises(KilledError):
        train_toy(resumed, tmp_path / "cut", config=learning, has_new_exit_heads=True, on_event=kill)
    again = toy_model(CLS)
    train_toy(again, tmp_path / "cut", config=learning, has_new_exit_heads=True, resume=True)
    assert torch.equal(whole.exit_head(0).dense.weight, again.exit_head(0).dense.weight)
