"""The object people hold: what it takes, what it refuses, and that its knobs start where they were put."""

import numpy as np
import pytest
import torch

import tiny
from magic_pyramid import CALIBRATED, Classifier
from magic_pyramid import classifier as classifier_module
from magic_pyramid.classifier import use_threads
from magic_pyramid.data import Example
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.export import export_native
from magic_pyramid.native.library import is_built

EXAMPLES = [Example(text=text, label=row % 3) for row, text in enumerate(tiny.TEXTS)]


@pytest.fixture(scope="module")
def classifier():
    return tiny.classifier(seed=3)


@pytest.fixture
def saved(tmp_path):
    tiny.classifier(seed=3).save_pretrained(tmp_path, readme="# Card")
    return tmp_path


def test_every_text_gets_an_answer_with_its_receipt(classifier, texts):
    found = classifier.predict(texts)
    assert len(found) == len(texts)
    assert set(found.labels) <= set(tiny.CONFIG.labels)
    assert found.probabilities.shape == (5, 3)
    assert found.num_tokens[:, 0].tolist() == [12, 3, 21, 6, 4]
    assert (found.gflops > 0).all()


def test_texts_come_from_any_iterable(classifier, texts):
    assert classifier.predict(iter(texts)).labels == classifier.predict(tuple(texts)).labels


def test_no_texts_give_no_answers(classifier):
    assert len(classifier.predict([])) == 0
    assert list(classifier.predict([])) == []


def test_pairs_are_answered(classifier):
    found = classifier.predict([("a quiet film", "a loud film"), ("bad", "good")])
    assert found.num_tokens[:, 0].tolist() == [9, 5]


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_changes_no_answer(classifier, texts, batch_size):
    usual, other = classifier.predict(texts), classifier.predict(texts, batch_size=batch_size)
    assert other.exit_layer.tolist() == usual.exit_layer.tolist()
    np.testing.assert_allclose(other.probabilities, usual.probabilities, atol=1e-5)


def test_long_texts_are_cut(classifier):
    assert classifier.predict(["film " * 500]).num_tokens[0, 0] == tiny.CONFIG.max_length


def test_one_string_is_refused(classifier):
    with pytest.raises(
        InputError, match=r"predict got one string; it wants a list of texts: predict\(\[text\]\)"
    ):
        classifier.predict("a quiet film")


@pytest.mark.parametrize("wrong", [None, 7, b"film", ["a", "b"], ("a", "b", "c"), ("a", None)], ids=repr)
def test_what_is_no_text_is_refused_with_its_place(classifier, wrong):
    with pytest.raises(InputError, match=r"input 1 \(counted from 0\): not a text"):
        classifier.predict(["film", wrong])


@pytest.mark.parametrize("empty", ["", "  "])
def test_a_text_without_tokens_is_refused_with_its_place(classifier, empty):
    with pytest.raises(InputError, match=r"input 1 \(counted from 0\): the tokenizer finds no token"):
        classifier.predict(["film", empty])


@pytest.mark.parametrize("config", [tiny.CONFIG, tiny.PLAIN], ids=["pyramid", "plain"])
@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"exit_threshold": 1.5}, r"exit_threshold is 1\.5; it must lie in \[0, 1\]"),
        ({"exit_threshold": "0.3"}, r"exit_threshold is '0\.3'"),
        ({"prune_scale": -1.0}, r"prune_scale is -1\.0; it must be a number >= 0"),
        ({"prune_scale": None}, r"prune_scale is None"),
        ({"exit_layers": [7]}, r"exit_layers contains 7; exits stand after .* \(counted from 0\)"),
        ({"batch_size": 0}, r"batch_size is 0; it must be at least 1"),
    ],
)
def test_a_knob_out_of_range_is_refused(config, knob, message):
    with pytest.raises(ConfigError, match=message):
        tiny.classifier(config).predict(["film"], **knob)


def test_knobs_start_where_calibration_put_them():
    config = tiny.changed(prune={"scale": 1.5}, exit={"threshold": 0.4})
    found = tiny.classifier(config)
    assert found.setting() == Setting(prune_scale=1.5, exit_threshold=0.4)
    assert found.setting(exit_threshold=None) == Setting(prune_scale=1.5)
    assert found.setting(prune_scale=0.0) == Setting(prune_scale=0.0, exit_threshold=0.4)
    assert found.setting(exit_threshold=CALIBRATED, prune_scale=CALIBRATED) == found.setting()
    assert repr(CALIBRATED) == "CALIBRATED"


def test_the_heads_that_are_asked_are_a_knob_that_belongs_to_the_stored_threshold():
    found = tiny.classifier(tiny.changed(exit={"threshold": 0.4, "tested_layers": (1,)}))
    assert found.setting().exit_layers == (1,)
    assert found.setting(exit_threshold=0.4).exit_layers == (1,)
    assert found.setting(exit_threshold=0.5).exit_layers is None
    assert found.setting(exit_threshold=0.5, exit_layers=CALIBRATED).exit_layers is None
    assert found.setting(exit_layers=None).exit_layers is None
    assert found.setting(exit_threshold=0.5, exit_layers=[0]).exit_layers == (0,)


def test_an_answer_is_charged_the_heads_that_were_asked(classifier, texts):
    both, second = (classifier.predict(texts, exit_threshold=0.0, exit_layers=one) for one in (None, (1,)))
    assert both.exit_layer.tolist() == second.exit_layer.tolist() == [2] * len(texts)
    assert (both.gflops > second.gflops).all()


def test_knobs_of_parts_that_a_model_lacks_do_nothing():
    plain = tiny.classifier(tiny.PLAIN)
    assert plain.setting() == plain.setting(exit_threshold=0.5, prune_scale=3.0) == DENSE


def test_the_knob_of_a_call_is_used(classifier, texts):
    everything = classifier.predict(texts, exit_threshold=None, prune_scale=0.0)
    assert (everything.num_tokens == everything.num_tokens[:, :1]).all()
    assert set(everything.exit_layer) == {2}
    assert set(classifier.predict(texts, exit_threshold=1.0).exit_layer) == {0}


def test_calibration_moves_the_defaults():
    found = tiny.classifier(seed=3)
    chosen = found.calibrate(EXAMPLES, max_drop=100)
    assert found.setting() == Setting(prune_scale=chosen.prune_scale, exit_threshold=chosen.exit_threshold)
    assert found.info["calibration"] == chosen.to_dict()
    assert found.model.pruner.config.scale == chosen.prune_scale
    plain = tiny.classifier(tiny.PLAIN)
    plain.calibrate(EXAMPLES, max_drop=1.0)
    assert plain.setting() == DENSE


def test_a_calibrated_model_is_saved_with_its_choice(tmp_path, texts):
    found = tiny.classifier(seed=3)
    chosen = found.calibrate(EXAMPLES, max_drop=100)
    found.save_pretrained(tmp_path)
    again = Classifier.from_pretrained(tmp_path)
    assert again.info["calibration"] == chosen.to_dict()
    assert again.setting() == found.setting()
    assert again.predict(texts).exit_layer.tolist() == found.predict(texts).exit_layer.tolist()


@pytest.mark.parametrize("call", ["evaluate", "calibrate"])
@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "0 of 0 examples have no label; give at least one, all labelled"),
        ([Example(text="film", label=1), Example(text="bad")], "1 of 2 examples have no label"),
    ],
    ids=["none", "unlabelled"],
)
def test_examples_without_labels_are_refused(classifier, call, examples, message):
    options = {"max_drop": 1.0} if call == "calibrate" else {}
    with pytest.raises(InputError, match=message):
        getattr(classifier, call)(examples, **options)


def test_evaluation_uses_the_knobs_of_the_call(classifier):
    row = classifier.evaluate(EXAMPLES, exit_threshold=None, prune_scale=0.0, repeats=0)
    assert row["flops_speedup"] == 1.0
    assert row["num_examples"] == 5
    assert row["exit_threshold"] is None


def test_a_folder_may_be_named_from_home(saved, texts, monkeypatch):
    monkeypatch.setenv("HOME", str(saved.parent))
    found = Classifier.from_pretrained(f"~/{saved.name}")
    assert found.predict(texts).labels == Classifier.from_pretrained(saved).predict(texts).labels


def test_a_saved_classifier_answers_as_before(saved, classifier, texts):
    again = Classifier.from_pretrained(str(saved), engine="torch")
    assert again.config == classifier.config
    one, other = again.predict(texts), classifier.predict(texts)
    assert np.array_equal(one.probabilities, other.probabilities)
    assert one.num_tokens.tolist() == other.num_tokens.tolist()
    assert (saved / "README.md").read_text(encoding="utf-8") == "# Card"


@pytest.mark.skipif(not is_built(), reason="the native engine is not built")
def test_a_folder_runs_natively_where_that_is_possible(saved, classifier, texts):
    again = Classifier.from_pretrained(saved)
    assert isinstance(again.engine, NativeEngine)
    one, other = again.predict(texts), classifier.predict(texts)
    np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)
    assert one.num_tokens.tolist() == other.num_tokens.tolist()
    assert again.explain(texts[0]).exit_layer == one.exit_layer[0]


def test_a_folder_runs_in_pytorch_where_the_native_engine_is_not_built(saved, monkeypatch):
    monkeypatch.setattr("magic_pyramid.classifier.is_built", lambda: False)
    assert isinstance(Classifier.from_pretrained(saved).engine, TorchEngine)


def test_an_engine_that_does_not_fit_is_refused(saved, classifier, tmp_path):
    with pytest.raises(ConfigError, match="the native engine runs on the CPU, but device is 'cuda'"):
        Classifier.from_pretrained(saved, engine="native", device="cuda")
    with pytest.raises(CheckpointError, match="is no exported folder; write one"):
        Classifier.from_pretrained(saved, engine="onnx")
    export_native(classifier.model, tmp_path / "native", encoder=classifier.encoder)
    for engine in ("torch", "onnx"):
        with pytest.raises(
            CheckpointError, match=f"exported for the engine 'native', and '{engine}' does not"
        ):
            Classifier.from_pretrained(tmp_path / "native", engine=engine)


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_smaller_storage_answers_almost_the_same(storage, tmp_path, classifier, texts):
    classifier.save_pretrained(tmp_path, storage=storage)
    again = Classifier.from_pretrained(tmp_path)
    knobs = {"exit_threshold": None, "prune_scale": 0.0}
    np.testing.assert_allclose(
        again.predict(texts, **knobs).probabilities,
        classifier.predict(texts, **knobs).probabilities,
        atol=0.1,
    )
    assert next(again.model.parameters()).dtype == torch.float32


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        Classifier.from_pretrained(tmp_path / "nowhere")


def test_a_folder_without_tokenizer_is_refused(saved):
    for path in saved.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        Classifier.from_pretrained(saved)


def test_the_word_demo_means_the_packaged_model(saved, monkeypatch, classifier):
    monkeypatch.setattr(classifier_module, "demo_model_path", lambda: saved)
    assert Classifier.from_pretrained("demo").config == classifier.config


def test_the_dense_model_can_be_written_for_transformers(saved, tmp_path, texts):
    Classifier.from_pretrained(saved).to_huggingface(tmp_path / "dense")
    dense = Classifier.from_pretrained(tmp_path / "dense")
    assert dense.setting() == DENSE
    ours = Classifier.from_pretrained(saved).predict(texts, exit_threshold=None, prune_scale=0.0)
    np.testing.assert_allclose(dense.predict(texts).probabilities, ours.probabilities, atol=1e-5)


@pytest.mark.parametrize("text", [*tiny.TEXTS[:3], ("a quiet film", "a loud film")], ids=str)
@pytest.mark.parametrize("tau", [None, 0.6, 1.0])
def test_an_explanation_tells_what_prediction_did(classifier, text, tau):
    answer = classifier.predict([text], exit_threshold=tau)
    trace = classifier.explain(text, exit_threshold=tau, with_attention=True)
    assert trace.exit_layer == answer.exit_layer[0]
    assert trace.probabilities == pytest.approx(answer.probabilities[0].tolist())
    assert trace.gflops == pytest.approx(answer.gflops[0])
    assert [len(layer.kept) for layer in trace.layers] == answer.num_tokens[
        0, 1 : trace.exit_layer + 2
    ].tolist()
    assert trace.tokens[0] == "[CLS]"
    for layer in trace.layers:
        assert np.mean(layer.importance) == pytest.approx(1.0, abs=1e-5)
        np.testing.assert_allclose(np.sum(layer.attention, axis=0), layer.importance, atol=1e-4)
        bar = layer.token_threshold_mass
        by_hand = [i for i, m in zip(layer.arrived, layer.importance, strict=True) if i == 0 or m >= bar]
        assert layer.kept == by_hand
        assert (layer.uncertainty is None) == (tau is None)
    if tau is not None:
        assert [layer.uncertainty <= tau for layer in trace.layers[:2]][-1] == (trace.exit_layer < 2)
        np.testing.assert_allclose(trace.layers[-1].probabilities, trace.probabilities, atol=1e-5)


def test_an_explanation_without_pruning_has_no_thresholds(classifier, texts):
    trace = classifier.explain(texts[0], prune_scale=0.0)
    assert all(layer.token_threshold_mass is None for layer in trace.layers)
    assert all(layer.arrived == layer.kept for layer in trace.layers)
    assert all(layer.attention is None for layer in trace.layers)


def test_patience_has_no_uncertainty_to_explain(texts):
    config = tiny.changed(exit={"criterion": "patience", "layers": (0,), "patience": 2})
    trace = tiny.classifier(config).explain(texts[0])
    assert [layer.uncertainty for layer in trace.layers] == [None] * 3
    assert [layer.probabilities is None for layer in trace.layers] == [False, True, False]


def test_a_model_goes_to_the_hub_as_its_folder(classifier, monkeypatch):
    uploads = []

    def upload(folder, repo_id, *, private):
        uploads.append(({path.name for path in folder.iterdir()}, repo_id, private))
        return "address"

    monkeypatch.setattr(classifier_module, "upload", upload)
    assert classifier.push_to_hub("ada/films", private=True) == "address"
    ((files, repo_id, private),) = uploads
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
    assert (repo_id, private) == ("ada/films", True)


def test_threads_are_set_for_the_process():
    before = torch.get_num_threads()
    use_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_an_impossible_number_of_threads_is_refused():
    with pytest.raises(InputError, match="threads is 0; give at least 1"):
        use_threads(0)
