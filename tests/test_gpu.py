"""The same answers on a GPU as on a CPU, and every method trained and measured there."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

import suites
import tiny
from magic_pyramid.config import PRUNE_KINDS
from magic_pyramid.engine.interface import Setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.fitting import arithmetic
from magic_pyramid.presets import PRESETS
from magic_pyramid.reproduce import prepare, reproduce
from magic_pyramid.reproduce.suite import suite_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LENGTHS = (9, 2, 14, 9, 1, 5, 20, 7)
CONFIGS = {
    **{kind: tiny.CONFIG.replace(prune=prune()) for kind, prune in PRUNE_KINDS.items()},
    **{family: tiny.CONFIG.replace(backbone=backbone) for family, backbone in tiny.FAMILIES.items()},
}
CRITERIA = ("entropy", "max_prob", "margin")


@pytest.fixture(autouse=True)
def exact_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def models(config):
    """The same weights on both devices."""
    return tiny.build(config), tiny.build(config).to("cuda")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("masking", ["none", "soft", "hard"])
def test_every_head_answers_alike(name, masking):
    here, there = models(CONFIGS[name])
    batch = tiny.packed(*LENGTHS)
    with torch.no_grad():
        one = here(batch, masking=masking, exits=True)
        other = there(batch.to("cuda"), masking=masking, exits=True)
    assert other.logits.device.type == "cuda"
    torch.testing.assert_close(other.logits.cpu(), one.logits, atol=1e-4, rtol=1e-4)
    assert one.exit_logits
    for layer, logits in one.exit_logits.items():
        torch.testing.assert_close(other.exit_logits[layer].cpu(), logits, atol=1e-4, rtol=1e-4)
    assert other.num_tokens.tolist() == one.num_tokens.tolist()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_engine_answers_alike(criterion):
    here, there = models(tiny.changed(exit={"criterion": criterion}))
    encoded = tiny.encoded(*LENGTHS)
    setting = Setting(prune_scale=1.0, exit_threshold=tiny.splitting_threshold(here, encoded))
    one = TorchEngine(here).run(encoded, setting=setting)
    other = TorchEngine(there).run(encoded, setting=setting)
    assert len(set(one.exit_layer.tolist())) > 1
    assert other.exit_layer.tolist() == one.exit_layer.tolist()
    assert other.num_tokens.tolist() == one.num_tokens.tolist()
    np.testing.assert_allclose(other.logits, one.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "bert"])
def test_every_method_is_trained_and_measured(name, tmp_path):
    target = {"top": 1.2, "power_bert": 1.2, "pyramid": 1.2}.get(name)
    spec = suites.suite(
        suites.make_encoder(tmp_path / "encoder", num_layers=6),
        methods=["bert", {"name": name, "target_speedup": target}],
        seeds=[0],
        defaults={"epochs": {**suites.EPOCHS, "distill_student": 1}, "set": {"exit.head": "cls"}},
    )
    prepared = prepare(
        suite_of(spec), output=tmp_path / "out", data_folder=suites.make_data(tmp_path / "data")
    )
    rows = reproduce(
        prepared,
        command="a test",
        say=lambda line: None,
        progress=lambda: nullcontext(lambda event: None),
        device="cuda",
    )
    ours = [row for row in rows if row["method"] == name]
    assert {row["provenance"]["engine"] for row in ours} == {"torch"}
    assert {row["dataset"] for row in ours} == {"reviews", "likeness"}
    assert all(torch.cuda.get_device_name() in row["provenance"]["machine"] for row in ours)


def test_products_in_less_than_fp32_are_recorded():
    assert arithmetic("cuda") == arithmetic("cpu") == "fp32"
    torch.set_float32_matmul_precision("high")
    assert arithmetic("cuda:0") == "fp32, matrix products in TF32"
    assert arithmetic("cuda", precision="bf16") == "bf16"
    assert arithmetic("cpu") == "fp32"
