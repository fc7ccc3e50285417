"""Oracle, model and engine agree: the same decisions exactly, the same logits to 1e-4."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import oracle
import tiny
from cases import ASKED, CASES, HEADS, LENGTHS, SETTINGS
from magic_pyramid.config import ExitConfig
from magic_pyramid.engine.interface import flops_of
from magic_pyramid.engine.torch_engine import TorchEngine

TOLERANCE = 1e-4


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_engine_agrees_with_the_oracle(name, setting):
    assert_as_the_oracle(tiny.build(CASES[name], seed=3), setting)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("choice", ASKED.values(), ids=ASKED)
def test_the_engine_asks_the_heads_that_the_oracle_asks(name, choice):
    assert_as_the_oracle(tiny.build(CASES[name], seed=3), replace(SETTINGS["both"], **choice))


def assert_as_the_oracle(model, setting):
    encoded = tiny.encoded(*LENGTHS)
    output = TorchEngine(model).run(encoded, setting=setting)
    for row, ids in enumerate(encoded.token_ids):
        logits, exit_layer, history = oracle.run(
            model,
            ids,
            exit_threshold=setting.exit_threshold,
            exit_layers=setting.exit_layers,
            scale=setting.prune_scale,
        )
        counts = [len(ids), *map(len, history)]
        ran = output.num_tokens[row, : len(counts)]
        assert output.exit_layer[row] == exit_layer, f"row {row}"
        assert ran.tolist() == counts, f"row {row}"
        assert not output.num_tokens[row, len(counts) :].any()
        np.testing.assert_allclose(output.logits[row], logits.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_the_model_keeps_the_tokens_that_the_oracle_keeps(name):
    model = tiny.build(CASES[name], seed=3)
    ids = tiny.token_lists(*LENGTHS)

    with torch.no_grad():
        state = model.begin(tiny.packed(*LENGTHS))
        kept = []
        for layer in range(3):
            state = model.remove_tokens(state, layer)
            kept.append(
                [part.tolist() for part in state.batch.position_ids.split(state.batch.lengths.tolist())]
            )
        logits = model(tiny.packed(*LENGTHS), masking="hard").logits

    for row, tokens in enumerate(ids):
        expected, _, history = oracle.run(model, tokens)
        assert [layer[row] for layer in kept] == history
        torch.testing.assert_close(logits[row], expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_the_cases_prune_and_exit_at_several_depths():
    pruned, layers = set(), set()
    for config in CASES.values():
        output = TorchEngine(tiny.build(config, seed=3)).run(tiny.encoded(*LENGTHS), setting=SETTINGS["both"])
        layers |= set(output.exit_layer.tolist())
        pruned |= {layer for layer in range(3) if (output.num_tokens[:, layer + 1] > 1).any()}
    assert layers == {0, 1, 2}
    assert pruned == {0, 1, 2}


@pytest.mark.parametrize("head", ["fastbert", "cls", "block"])
def test_receipts_of_the_engine_cost_what_the_oracle_did(head):
    config = tiny.CONFIG.replace(exit=ExitConfig(head=head, head_size=8))
    model = tiny.build(config, seed=3)
    encoded, setting = tiny.encoded(*LENGTHS), SETTINGS["both"]

    flops = flops_of(config, TorchEngine(model).run(encoded, setting=setting), setting)

    d, f, s, labels = 16, 24, 8, 3
    for row, ids in enumerate(encoded.token_ids):
        _, exit_layer, history = oracle.run(model, ids, exit_threshold=setting.exit_threshold)
        macs, arrived = 0, len(ids)
        for layer, kept in enumerate(map(len, history)):
            macs += 2 * d * arrived**2 + 4 * d * d * arrived + 2 * d * f * kept
            cls = d * d + d * labels
            charge = {
                "cls": cls,
                "fastbert": (d * s + 2 * s * s + 2 * s) * kept + 3 * s * s + s * labels,
                "block": 2 * d * kept**2 + 4 * d * d * kept + 2 * d * f * kept + cls,
            }
            macs += cls if layer == 2 else charge[head]
            arrived = kept
        assert flops[row] == 2 * macs, f"row {row}, left after layer {exit_layer}"
