"""Small models and their folders, for the tests of checkpoints."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from magic_pyramid.checkpoint import save_model
from magic_pyramid.config import BackboneConfig, ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.model import PyramidModel

INFO = {"calibration": {"exit_threshold": 0.3}, "provenance": {"seed": 7}, "tuning": {"threads": 2}}
BACKBONE = BackboneConfig(
    model_type="bert",
    vocab_size=20,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
)
CONFIG = ModelConfig(
    backbone=BACKBONE,
    labels=("bad", "good"),
    max_length=10,
    prune=PruneConfig(manual_thresholds=(0.01, 0.02, 0.03)),
    exit=ExitConfig(head_size=8),
)
DENSE = CONFIG.replace(prune=None, exit=None)


class StubEncoder:
    """Writes a file, as a text encoder does."""

    def __init__(self, content="tokens"):
        self.content = content

    def save_pretrained(self, folder, /):
        (Path(folder) / "tokenizer.json").write_text(self.content, encoding="utf-8")


def build(config=CONFIG, *, seed=0):
    torch.manual_seed(seed)
    model = PyramidModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def save(model, folder, *, content="tokens", info=INFO, readme="# Card", storage="fp32"):
    save_model(model, folder, encoder=StubEncoder(content), info=info, readme=readme, storage=storage)


def same_weights(first, second):
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def edit_config(folder, change):
    path = folder / "config.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
