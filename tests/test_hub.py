"""The same folder in transformers' words: Auto classes, pipeline, a training step, and back."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

import tiny
from magic_pyramid import Classifier, hub
from magic_pyramid.errors import CheckpointError, ConfigError
from magic_pyramid.hub import MagicPyramidConfig, MagicPyramidForSequenceClassification, upload

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny.classifier(seed=3).save_pretrained(path)
    return path


@pytest.fixture
def model(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder)


def inputs_of(folder, texts):
    return AutoTokenizer.from_pretrained(folder)(list(texts), padding=True, return_tensors="pt")


def test_the_auto_config_is_ours(folder):
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, MagicPyramidConfig)
    assert config.model == tiny.CONFIG
    assert config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert config.num_labels == 3


def test_an_auto_config_with_a_wrong_field_is_refused(folder):
    config = AutoConfig.from_pretrained(folder)
    config.magic_pyramid = {**config.magic_pyramid, "label": ["a"]}
    with pytest.raises(ConfigError, match="has no field 'label'; did you mean 'labels'"):
        _ = config.model


def test_the_auto_model_is_ours_and_answers_as_the_classifier(folder, model, texts):
    assert isinstance(model, MagicPyramidForSequenceClassification)
    assert not model.training
    logits = model(**inputs_of(folder, texts)).logits
    expected = Classifier.from_pretrained(folder).predict(texts)
    np.testing.assert_allclose(logits.softmax(-1).numpy(), expected.probabilities, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float32, "auto", torch.bfloat16], ids=str)
def test_a_loaded_model_is_in_evaluation_mode_whatever_its_type(folder, dtype, texts):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype)
    assert not model.training
    assert not model.pyramid.training
    wanted = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    assert model.pyramid.embeddings.token.weight.dtype == wanted
    assert model(**inputs_of(folder, texts)).logits.isfinite().all()


def test_a_pipeline_agrees_with_the_classifier(folder, texts):
    answers = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)(texts)
    expected = Classifier.from_pretrained(folder).predict(texts)
    for row, answer in enumerate(answers):
        scores = {entry["label"]: entry["score"] for entry in answer}
        ours = dict(zip(tiny.CONFIG.labels, expected.probabilities[row].tolist(), strict=True))
        assert scores == pytest.approx(ours, abs=TOLERANCE)


def test_a_training_step_gives_a_loss_and_gradients(folder, model, texts):
    model.train()
    output = model(**inputs_of(folder, texts), labels=torch.tensor([0, 1, 2, 0, 1]))
    output.loss.backward()
    assert output.logits.shape == (5, 3)
    assert float(output.loss.detach()) > 0
    assert model.pyramid.layers[0].attention.qkv.weight.grad.abs().sum() > 0
    assert model.pyramid.final_head.output.weight.grad.abs().sum() > 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step()
    again = model(**inputs_of(folder, texts), labels=torch.tensor([0, 1, 2, 0, 1]))
    assert float(again.loss.detach()) != float(output.loss.detach())


def test_evaluation_gives_a_loss_too(folder, model, texts):
    inputs = inputs_of(folder, texts)
    assert model(**inputs).loss is None
    output = model(**inputs, labels=torch.tensor([0, 1, 2, 0, 1]))
    expected = torch.nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2, 0, 1]))
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        (tiny.MULTI_LABEL, torch.tensor([[1.0, 0, 1], [0, 0, 0]])),
        (tiny.REGRESSION, torch.tensor([0.5, -1.0])),
    ],
    ids=["multi-label", "regression"],
)
def test_other_problems_have_their_loss(config, labels, tmp_path, texts):
    tiny.classifier(config).save_pretrained(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).train()
    model(**inputs_of(tmp_path, texts[:2]), labels=labels).loss.backward()
    assert model.pyramid.final_head.output.weight.grad.abs().sum() > 0


def test_a_model_saved_from_transformers_is_our_folder(folder, model, tmp_path, texts):
    model.info["provenance"] = {"seed": 7}
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    assert again.config == tiny.CONFIG
    assert again.info["provenance"] == {"seed": 7}
    expected = Classifier.from_pretrained(folder).predict(texts)
    assert np.array_equal(again.predict(texts).probabilities, expected.probabilities)


def test_saving_leaves_other_files_alone(model, tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text(encoding="utf-8") == "{}"


def test_a_damaged_folder_is_refused_with_its_file(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_registering_twice_does_no_harm(folder):
    hub.register()
    assert isinstance(AutoConfig.from_pretrained(folder), MagicPyramidConfig)


def test_an_upload_makes_the_repository_and_sends_the_folder(folder, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id, *, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path):
            calls.append(("upload", repo_id, folder_path))
            return "https://hub/ada/films"

    monkeypatch.setattr(hub, "HfApi", Api)
    assert upload(folder, "ada/films", private=True) == "https://hub/ada/films"
    assert calls == [("create", "ada/films", True, True), ("upload", "ada/films", folder)]
