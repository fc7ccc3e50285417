import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoint_folders import BACKBONE, CONFIG, DENSE, INFO, StubEncoder, build, same_weights, save
from magic_pyramid.checkpoint import load_model, to_huggingface, with_config
from magic_pyramid.config import FORMAT_VERSION, ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.errors import CheckpointError
from magic_pyramid.packing import pack_sequences


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    save(build(), folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        DENSE,
        CONFIG.replace(final_head="fastbert"),
        CONFIG.replace(exit=ExitConfig(head="block", layers=(1,))),
        CONFIG.replace(problem_type="multi_label", labels=("x", "y", "ü")),
        DENSE.replace(problem_type="regression", labels=("score",)),
    ],
    ids=["pyramid", "dense", "fastbert", "block", "multi-label", "regression"],
)
def test_a_model_comes_back_as_it_was_saved(config, tmp_path):
    model = build(config)
    save(model, tmp_path / "deep" / "model")

    loaded = load_model(tmp_path / "deep" / "model")

    assert loaded.model.config == config
    assert same_weights(loaded.model, model)
    assert loaded.info == {**INFO, "temperatures": {}, "new_parameters": [], "ignored": []}
    assert loaded.folder == tmp_path / "deep" / "model"
    assert not loaded.model.training
    assert [p.requires_grad for p in loaded.model.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_the_loaded_model_computes_the_same(saved):
    batch = pack_sequences([[1, 5, 6, 2], [1, 7, 2]])
    with torch.no_grad():
        expected = build()(batch, masking="hard", exits=True)
        got = load_model(saved).model(batch, masking="hard", exits=True)
    assert torch.equal(got.logits, expected.logits)
    assert torch.equal(got.exit_logits[0], expected.exit_logits[0])


def test_the_folder_speaks_hugging_face_words(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "magic_pyramid"
    assert config["architectures"] == ["MagicPyramidForSequenceClassification"]
    assert config["id2label"] == {"0": "bad", "1": "good"}
    assert config["label2id"] == {"bad": 0, "good": 1}
    assert config["problem_type"] == "single_label_classification"
    assert config["format_version"] == FORMAT_VERSION
    assert ModelConfig.from_dict(config["magic_pyramid"]) == CONFIG
    names = {path.name for path in saved.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "README.md"}


def test_loading_leaves_the_random_state_alone(saved, tmp_path):
    to_huggingface(build(DENSE), tmp_path / "theirs", encoder=None)
    for folder in (saved, tmp_path / "theirs"):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        load_model(folder)
        assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("storage", "tolerance"), [("fp16", 1e-3), ("int8", 5e-3)])
def test_small_storage_expands_to_nearly_the_same_weights(storage, tolerance, tmp_path):
    model = build()
    save(model, tmp_path / storage, storage=storage)
    save(model, tmp_path / "fp32")

    loaded = load_model(tmp_path / storage).model.state_dict()

    for name, tensor in model.state_dict().items():
        assert loaded[name].dtype == torch.float32
        if tensor.ndim < 2:
            assert torch.equal(loaded[name], tensor), name
        else:
            worst = tensor.abs().amax() * tolerance
            torch.testing.assert_close(loaded[name], tensor, atol=float(worst), rtol=0)
    sizes = {key: (tmp_path / key / "model.safetensors").stat().st_size for key in (storage, "fp32")}
    assert sizes[storage] < 0.9 * sizes["fp32"]


def test_int8_storage_of_a_loaded_model_is_stable(tmp_path):
    save(build(), tmp_path / "first", storage="int8")
    once = load_model(tmp_path / "first").model
    save(once, tmp_path / "second", storage="int8")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert all(torch.equal(first[name], second[name]) for name in first if name.endswith(".int8"))


def test_a_row_of_zeros_survives_int8(tmp_path):
    model = build()
    with torch.no_grad():
        model.embeddings.token.weight[3] = 0
    save(model, tmp_path, storage="int8")
    assert not load_model(tmp_path).model.embeddings.token.weight[3].any()


def test_values_beyond_the_storage_are_refused(tmp_path):
    model = build()
    with torch.no_grad():
        model.embeddings.token.weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"not finite in fp16: embeddings\.token\.weight"):
        save(model, tmp_path / "model", storage="fp16")
    assert not list((tmp_path / "model").iterdir())


def test_an_unknown_storage_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="storage is 'int4'; did you mean 'int8'"):
        save(build(), tmp_path, storage="int4")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}], ids=["nan", "set"])
def test_info_that_is_no_json_is_refused(value, tmp_path):
    with pytest.raises(CheckpointError, match="must be plain JSON"):
        save(build(), tmp_path, info={"calibration": {"x": value}})
    assert not list(tmp_path.iterdir())


def test_saving_again_replaces_our_files_and_keeps_the_user_s(saved):
    (saved / "notes.txt").write_text("mine", encoding="utf-8")
    (saved / "runs").mkdir()
    (saved / "runs" / "log.csv").write_text("1", encoding="utf-8")
    newer = build(seed=1)

    save(newer, saved, content="new tokens", readme=None)

    assert same_weights(load_model(saved).model, newer)
    assert (saved / "tokenizer.json").read_text(encoding="utf-8") == "new tokens"
    assert (saved / "README.md").read_text(encoding="utf-8") == "# Card"
    assert (saved / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert (saved / "runs" / "log.csv").exists()
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]


class Killed(BaseException):
    """Stands for the end of the process: no code of ours may catch it."""


def kill_at(monkeypatch, owner, name, step):
    """Let the call number ``step`` of a file operation be the last thing the process does."""
    real = getattr(owner, name)
    calls = iter(range(10_000))

    def dying(*args, **kwargs):
        if next(calls) == step:
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)
    return calls


@pytest.mark.parametrize(
    ("owner", "name"), [(os, "fsync"), (Path, "replace"), (shutil, "rmtree"), (Path, "write_text")]
)
def test_a_kill_at_any_step_leaves_a_whole_model(owner, name, tmp_path, monkeypatch):
    old, new = build(), build(seed=1)
    outcomes = set()
    for step in range(20):
        folder = tmp_path / str(step)
        save(old, folder, content="old", readme="old")
        (folder / "notes.txt").write_text("mine", encoding="utf-8")
        with monkeypatch.context() as patch:
            kill_at(patch, owner, name, step)
            try:
                save(new, folder, content="new", readme="new", info={"calibration": {"exit_threshold": 0.9}})
                finished = True
            except Killed:
                finished = False
        loaded = load_model(folder)
        outcome = "new" if same_weights(loaded.model, new) else "old"
        outcomes.add(outcome)
        assert same_weights(loaded.model, {"new": new, "old": old}[outcome])
        assert loaded.info["calibration"] == {"exit_threshold": {"new": 0.9, "old": 0.3}[outcome]}
        for file in ("tokenizer.json", "README.md"):
            assert (folder / file).read_text(encoding="utf-8") == outcome
        assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
        if finished:
            assert outcome == "new"
            break
        save(old, folder, content="again")
        assert (folder / "tokenizer.json").read_text(encoding="utf-8") == "again"
    assert finished
    assert step > 0
    assert "new" in outcomes


def test_a_full_disk_leaves_the_old_folder_and_no_litter(saved, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space left.*free some space"):
        save(build(seed=1), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_an_interrupted_save_in_a_read_only_folder_says_what_to_do(saved, monkeypatch):
    (saved / ".saved").mkdir()
    (saved / ".saved" / "config.json").write_text("{}", encoding="utf-8")

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(
        CheckpointError, match=r"interrupted save that cannot be finished .*make the folder writable"
    ):
        load_model(saved)


def test_with_config_takes_the_backbone_and_starts_what_is_new():
    model = build(DENSE)

    changed = with_config(model, CONFIG.replace(labels=("a", "b", "c")), seed=3)

    old, new = model.state_dict(), changed.model.state_dict()
    assert set(changed.taken) | set(changed.fresh) == set(new)
    assert {name.partition(".")[0] for name in changed.fresh} == {"final_head", "pruner", "exit_heads"}
    assert "final_head.dense.weight" in changed.taken
    assert "final_head.output.weight" in changed.fresh
    assert all(torch.equal(new[name], old[name]) for name in changed.taken)
    again = with_config(model, CONFIG.replace(labels=("a", "b", "c")), seed=3)
    assert same_weights(changed.model, again.model)
    assert not changed.model.training


@pytest.mark.parametrize(
    ("changes", "fresh"),
    [
        ({"max_length": 8}, set()),
        ({"prune": PruneConfig(manual_thresholds=(0.01, 0.02, 0.03), scale=0.5, temperature=1e-2)}, set()),
        ({"prune": PruneConfig(final_threshold=0.05)}, {"pruner"}),
        ({"exit": ExitConfig(head_size=8, threshold=0.5)}, set()),
        ({"exit": ExitConfig(head_size=8, layers=(1,))}, set()),
        ({"exit": ExitConfig(head="cls")}, {"exit_heads"}),
        ({"exit": ExitConfig(head_size=8, head_attention_heads=4)}, {"exit_heads"}),
        ({"final_head": "fastbert"}, {"final_head"}),
        ({"labels": ("good", "bad")}, {"final_head", "exit_heads"}),
        ({"problem_type": "multi_label"}, {"final_head", "exit_heads"}),
    ],
)
def test_with_config_starts_only_what_means_something_else(changes, fresh):
    changed = with_config(build(), CONFIG.replace(**changes))
    assert {name.partition(".")[0] for name in changed.fresh} == fresh


def test_a_fastbert_final_head_of_another_shape_starts_anew():
    model = build(CONFIG.replace(final_head="fastbert"))
    wider = model.config.replace(exit=ExitConfig(head_size=8, head_attention_heads=4))
    fresh = with_config(model, wider).fresh
    assert {name.partition(".")[0] for name in fresh} == {"final_head", "exit_heads"}


def test_with_config_cuts_layers_and_copies():
    model = build(DENSE)
    shorter = DENSE.replace(backbone=BACKBONE.replace(num_hidden_layers=2))
    changed = with_config(model, shorter)
    assert changed.fresh == ()
    with torch.no_grad():
        changed.model.embeddings.token.weight.zero_()
    assert model.embeddings.token.weight.any()


def test_a_head_of_another_kind_cannot_be_written_for_hugging_face(tmp_path):
    with pytest.raises(CheckpointError, match=r"final_head is 'fastbert'.*only 'cls'"):
        to_huggingface(build(CONFIG.replace(final_head="fastbert")), tmp_path, encoder=None)


def test_the_hugging_face_folder_gets_the_tokenizer(tmp_path):
    to_huggingface(build(), tmp_path, encoder=StubEncoder("theirs"))
    assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == "theirs"
    assert load_model(tmp_path).model.config.labels == ("bad", "good")
