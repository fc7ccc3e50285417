import json

import huggingface_hub
import pytest
import torch

from checkpoint_folders import DENSE, build, edit_config, edit_weights, save
from magic_pyramid.checkpoint import load_model, to_huggingface
from magic_pyramid.errors import CheckpointError


@pytest.fixture
def saved(tmp_path):
    save(build(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def foreign(tmp_path):
    to_huggingface(build(DENSE), tmp_path / "theirs", encoder=None)
    return tmp_path / "theirs"


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a/b/c", "has space"])
def test_a_missing_folder_is_refused(source):
    with pytest.raises(CheckpointError, match=r"is not a folder; give a model folder or a hub name"):
        load_model(source)


def test_a_file_is_no_model_folder(saved):
    with pytest.raises(CheckpointError, match=r"config\.json is not a folder"):
        load_model(saved / "config.json")


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"model_type": ', r"config\.json is not readable JSON"),
        (b"\xff\xfe\xfa", r"config\.json is not readable JSON"),
        (b"[1, 2]", r"config\.json holds list; it must hold an object"),
    ],
)
def test_a_damaged_config_is_refused(saved, content, message):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model_type", "gpt2", r"config\.json: model_type is 'gpt2'"),
        ("format_version", 2, r"format_version is 2, written by a newer release.*pip install --upgrade"),
        ("format_version", "1", r"format_version is '1'; it must be a whole number"),
        ("format_version", None, r"format_version is None"),
        ("magic_pyramid", 3, r"config\.json: magic_pyramid is 3; it must be an object"),
        ("magic_pyramid.labels", "bad", r"magic_pyramid\.labels is 'bad'; it must be a list"),
        ("magic_pyramid.labels", ["bad", 1], r"magic_pyramid\.labels\[1\] is 1; it must be a text"),
        ("magic_pyramid.max_length", 10.5, r"magic_pyramid\.max_length is 10\.5; it must be a whole number"),
        ("magic_pyramid.max_length", True, r"magic_pyramid\.max_length is True"),
        ("magic_pyramid.backbone.vocab_size", "20", r"magic_pyramid\.backbone\.vocab_size is '20'"),
        ("magic_pyramid.backbone.vocab_size", -4, r"magic_pyramid\.backbone\.vocab_size is -4"),
        ("magic_pyramid.backbone.hidden_act", "mish", r"backbone\.hidden_act is 'mish'; known: gelu"),
        ("magic_pyramid.backbone.model_type", "berd", r"model_type is 'berd'.*did you mean 'bert'"),
        ("magic_pyramid.prune.temperature", "hot", r"prune\.temperature is 'hot'; it must be a number"),
        ("magic_pyramid.prune.gate_cls", 1, r"prune\.gate_cls is 1; it must be true or false"),
        ("magic_pyramid.exit.threshold", 2.0, r"config\.json: exit_threshold is 2\.0"),
        ("magic_pyramid.exit.crit", "entropy", r"ExitConfig has no field 'crit'; did you mean 'criterion'"),
        ("calibration", [], r"calibration is \[\]; it must be an object"),
    ],
)
def test_a_wrong_field_is_named(saved, path, value, message):
    def change(data):
        *parents, last = path.split(".")
        for parent in parents:
            data = data[parent]
        data[last] = value

    edit_config(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(saved)


def test_all_wrong_types_are_named_at_once(saved):
    def change(data):
        del data["magic_pyramid"]["labels"]
        data["magic_pyramid"]["backbone"]["hidden_size"] = None
        data["provenance"] = 4

    edit_config(saved, change)
    with pytest.raises(
        CheckpointError, match=r"backbone\.hidden_size is None.*labels is missing.*provenance is 4"
    ):
        load_model(saved)


def test_no_heads_at_all_is_refused(saved):
    edit_config(saved, lambda data: data["magic_pyramid"]["backbone"].update(num_attention_heads=0))
    with pytest.raises(CheckpointError, match="num_attention_heads"):
        load_model(saved)


def test_every_tensor_that_does_not_fit_is_listed(saved):
    def change(tensors):
        del tensors["final_head.output.bias"]
        tensors["embeddings.norm.bias"] = torch.zeros(7)
        tensors["embeddings.norm.weight"] = torch.zeros(16, dtype=torch.int64)
        tensors["stranger"] = torch.zeros(1)

    edit_weights(saved, change)
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    for part in (
        "final_head.output.bias is missing",
        "embeddings.norm.bias has shape (7,), its config wants (16,)",
        "embeddings.norm.weight is torch.int64",
        "stranger is unexpected",
        str(saved),
    ):
        assert part in str(caught.value)


def test_a_config_of_absurd_size_is_refused_without_allocating_it(saved):
    edit_config(saved, lambda data: data["magic_pyramid"]["backbone"].update(vocab_size=10**12))
    with pytest.raises(CheckpointError, match=r"embeddings\.token\.weight has shape \(20, 16\)"):
        load_model(saved)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_truncated_weights_are_refused(saved, length):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or not a safetensors file"):
        load_model(saved)


def test_weights_in_other_formats_are_refused(foreign):
    (foreign / "model.safetensors").rename(foreign / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors.*never unpickled.*convert"):
        load_model(foreign)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("pruner.delta"), r"pruner\.delta is missing"),
        (lambda t: t.pop("embeddings.token.weight.scale"), r"embeddings\.token\.weight\.scale is missing"),
        (
            lambda t: t.update({"embeddings.token.weight.scale": torch.ones(3)}),
            r"embeddings\.token\.weight\.scale is of shape \(3,\)",
        ),
        (
            lambda t: t.update({"embeddings.token.weight.int8": torch.ones(20, 16)}),
            r"embeddings\.token\.weight\.int8 is torch\.float32",
        ),
    ],
)
def test_damaged_int8_storage_is_refused(tmp_path, change, message):
    save(build(), tmp_path / "small", storage="int8")
    edit_weights(tmp_path / "small", change)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "small")


def test_foreign_weights_that_do_not_fit_are_listed_by_their_names(foreign):
    def change(tensors):
        tensors["bert.adapter.weight"] = torch.zeros(1)
        del tensors["bert.encoder.layer.0.attention.self.key.bias"]
        del tensors["bert.embeddings.LayerNorm.bias"]

    edit_weights(foreign, change)
    with pytest.raises(CheckpointError) as caught:
        load_model(foreign)
    for part in (
        "bert.adapter.weight is unexpected",
        "attention.self.key.bias is missing",
        "embeddings.norm.bias",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem_type": "ranking"}, r"problem_type is 'ranking'; known: single_label_classification"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is .*must give a name to each number from 0 up"),
        ({"id2label": {}}, "id2label is {}"),
        ({"id2label": ["a"]}, "id2label is"),
        ({"id2label": None, "num_labels": "two"}, "num_labels is 'two'"),
        ({"num_attention_heads": 5}, r"config\.json: hidden_size 16 is not divisible"),
        ({"is_decoder": True}, r"config\.json: is_decoder is True"),
    ],
)
def test_a_wrong_field_of_a_foreign_config_is_named(foreign, change, message):
    edit_config(foreign, lambda data: data.update(change))
    with pytest.raises(CheckpointError, match=message):
        load_model(foreign)


@pytest.mark.parametrize(
    ("change", "labels", "problem_type"),
    [
        ({"id2label": None, "problem_type": None}, ("LABEL_0", "LABEL_1"), "single_label"),
        (
            {"id2label": {"0": "x", "1": "y"}, "problem_type": "multi_label_classification"},
            ("x", "y"),
            "multi_label",
        ),
    ],
)
def test_labels_of_a_foreign_config_are_read(foreign, change, labels, problem_type):
    edit_config(foreign, lambda data: data.update(change))
    config = load_model(foreign).model.config
    assert (config.labels, config.problem_type) == (labels, problem_type)
    assert (config.prune, config.exit, config.max_length) == (None, None, 12)


def test_one_label_means_regression_as_in_transformers(foreign):
    edit_config(foreign, lambda data: data.update(id2label={"0": "score"}, problem_type=None))
    edit_weights(foreign, lambda tensors: [tensors.pop(f"classifier.{name}") for name in ("weight", "bias")])
    assert load_model(foreign).model.config.problem_type == "regression"


def test_a_new_head_depends_on_the_seed_only(foreign):
    edit_weights(foreign, lambda tensors: [tensors.pop(f"classifier.{name}") for name in ("weight", "bias")])
    first, again, other = (load_model(foreign, seed=seed) for seed in (1, 1, 2))
    heads = [loaded.model.final_head.output.weight for loaded in (first, again, other)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert first.info["new_parameters"] == ["final_head.output.weight", "final_head.output.bias"]


@pytest.mark.parametrize("weight_map", [{}, {"a": "../other.safetensors"}, {"a": 3}, ["x"]])
def test_a_wrong_index_of_shards_is_refused(foreign, weight_map):
    (foreign / "model.safetensors").unlink()
    index = {"weight_map": weight_map}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map must map"):
        load_model(foreign)


def test_a_missing_shard_is_named(foreign):
    (foreign / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (foreign / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"model-00001-of-00002\.safetensors is missing"):
        load_model(foreign)


def test_a_hub_name_is_downloaded(foreign, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append(name)
        return str(foreign)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_model("user/model").folder == foreign
    assert asked == ["user/model"]


def test_a_hub_name_that_cannot_be_had_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match=r"user/no-such-model is neither a folder nor a model the hub gives"
    ):
        load_model("user/no-such-model")
