"""The folder of a model as one graph: what it holds, what is refused, and that everybody reads it alike."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import tiny
from exported import write
from magic_pyramid.classifier import Classifier
from magic_pyramid.engine.exported import exported_for, open_exported
from magic_pyramid.engine.graph_interface import EACH_ITS_OWN, GRAPH_FILE, INTERFACE_FILE
from magic_pyramid.engine.interface import Setting
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.single_engine import SingleGraphEngine
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.export import accept_export, export_single_graph, single
from magic_pyramid.tokenization import TextEncoder


def write_single(folder: Path, model=None, **options) -> Path:
    export_single_graph(model or tiny.build(seed=3), folder, encoder=TextEncoder(tiny.tokenizer()), **options)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_single(tmp_path_factory.mktemp("exported") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_one_file_holds_the_whole_model(whole):
    assert {file.name for file in whole.iterdir()} == {
        "README.md",
        "config.json",
        GRAPH_FILE,
        INTERFACE_FILE,
        "tokenizer.json",
        "tokenizer_config.json",
    }
    model = onnx.load(whole / GRAPH_FILE, load_external_data=False)
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert {item.domain: item.version for item in model.opset_import} == {"": 17, "com.microsoft": 1}


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_the_description_is_true(family, tmp_path):
    config = tiny.CONFIG.replace(backbone=tiny.FAMILIES[family])
    folder = write_single(tmp_path / "new", tiny.build(config))
    described = json.loads((folder / INTERFACE_FILE).read_text())
    graph = onnx.load(folder / GRAPH_FILE).graph
    page = (folder / "README.md").read_text()
    for side, ports in (("inputs", graph.input), ("outputs", graph.output)):
        assert [value["name"] for value in described[side]] == [port.name for port in ports]
        for value, port in zip(described[side], ports, strict=True):
            tensor = port.type.tensor_type
            assert onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type) == np.dtype(value["type"])
            assert value["shape"] == [size.dim_param or size.dim_value for size in tensor.shape.dim]
            assert f"| `{value['name']}` | {value['type']} |" in page
    assert described["labels"] == ["bad", "so-so", "good"]
    assert described["defaults"] == {"prune_scale": 1.0, "exit_threshold": 0.6}
    assert "`prune_scale` is 1 and\n`exit_threshold` is 0.6" in page


@pytest.mark.parametrize("threshold", [-1.0, -1e-6, float("nan")])
def test_no_threshold_below_zero_lets_anybody_leave(whole, threshold):
    engine = SingleGraphEngine(whole, threads=1)
    ids = np.array(tiny.token_lists(9)[0])
    answer = engine._graph.run(
        {
            "token_ids": ids,
            "token_type_ids": np.zeros_like(ids),
            "prune_scale": np.array(0, np.float32),
            "exit_threshold": np.array(threshold, np.float32),
        }
    )
    assert answer["exit_layer"] == 2
    assert answer["num_tokens"].tolist() == [9, 9, 9, 9]


def test_a_model_without_exits_stores_that_nobody_leaves(tmp_path):
    folder = write_single(tmp_path / "new", tiny.build(tiny.PLAIN))
    described = json.loads((folder / INTERFACE_FILE).read_text())
    assert described["defaults"] == {"prune_scale": 0.0, "exit_threshold": -1.0}


def test_a_program_that_gives_one_number_takes_it_for_all_heads_or_those_of_the_model(tmp_path):
    model = tiny.build(tiny.changed(exit={"threshold": (0.3, 0.9)}), seed=3)
    engine = SingleGraphEngine(write_single(tmp_path / "new", model), threads=1)
    assert engine.interface.defaults["exit_threshold"] == EACH_ITS_OWN
    encoded = tiny.encoded(9, 2, 14, 5)
    for given, setting in ((2.0, (0.3, 0.9)), (0.6, 0.6), (-1.0, None)):
        knobs = {"prune_scale": np.array(1, np.float32), "exit_threshold": np.array(given, np.float32)}
        expected = engine.run(encoded, setting=Setting(exit_threshold=setting)).exit_layer
        for ids, layer in zip(encoded.token_ids, expected, strict=True):
            tokens = {"token_ids": np.array(ids), "token_type_ids": np.zeros(len(ids), np.int64)}
            assert engine._graph.run({**tokens, **knobs})["exit_layer"] == layer


def test_patience_is_described_in_its_own_words(tmp_path):
    folder = write_single(tmp_path / "new", tiny.build(tiny.REGRESSION))
    assert "Leave once t exit heads in a row agree, for 1 / t" in (folder / "README.md").read_text()


def test_an_export_of_either_kind_is_replaced_by_the_other(folder):
    write(folder)
    assert isinstance(open_exported(folder), OrtEngine)
    assert not (folder / GRAPH_FILE).exists()
    write_single(folder)
    assert isinstance(open_exported(folder), SingleGraphEngine)
    assert not list(folder.glob("layers_*"))


def test_what_is_no_export_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert exported_for(tmp_path) is None
    with pytest.raises(InputError, match="holds something that is no export; choose a new folder"):
        write_single(tmp_path)


def test_weights_that_fit_into_no_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(single, "LARGEST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"weights take .* GB in fp32; .* export int8, or segments"):
        write_single(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_an_unknown_precision_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="precision is 'int4'; did you mean 'int8'"):
        write_single(tmp_path / "new", precision="int4")


def test_an_export_of_another_model_is_refused_before_it_has_its_name(tmp_path):
    with pytest.raises(CheckpointError, match="the exported logits differ from the model's by"):
        write_single(tmp_path / "new", accept=lambda folder: accept_export(tiny.build(seed=4), folder))
    assert not list(tmp_path.iterdir())


def test_large_logits_may_differ_by_more(tmp_path):
    config = tiny.CONFIG.replace(labels=("score",), problem_type="regression", exit=None)
    model = tiny.build(config, seed=3)
    with torch.no_grad():
        model.final_head.output.weight.mul_(3e4)
    write_single(tmp_path / "large", model, accept=lambda folder: accept_export(model, folder))
    texts = tiny.encoded(9, 5, 12)
    ours, theirs = (
        engine.run(texts, setting=Setting()).logits
        for engine in (TorchEngine(model), SingleGraphEngine(tmp_path / "large"))
    )
    assert np.abs(ours).max() > 1e3
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-3 * np.abs(ours).max())


def test_an_older_export_stays_where_the_new_one_cannot_take_its_name(folder, monkeypatch):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    replace = Path.replace

    def fails(self, target):
        if Path(target) == folder and not self.name.endswith(".old"):
            raise PermissionError("no")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_single(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_an_export_is_compared_with_its_model(whole):
    found = accept_export(tiny.build(seed=3), whole)
    assert found["random"]["logit_difference"] < 1e-4
    assert found["random"]["changed_decisions"] == 0


def test_a_damaged_graph_is_refused(folder):
    data = bytearray((folder / GRAPH_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / GRAPH_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.onnx is damaged or not the file that was exported"):
        SingleGraphEngine(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_version": 2}, "plan_version is 2, written by a newer release"),
        ({"plan_version": None}, "plan_version is None; it must be a whole number"),
        ({"opset": 99}, "precision is 'fp32' and opset 99; this release runs fp32, int8 up to opset 17"),
        ({"precision": "int4"}, "precision is 'int4' and opset 17"),
        ({"model": {}}, "cannot be read"),
        ({"sha256": "0"}, "its checksum is not the one in interface.json"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, changes, message):
    data = json.loads((folder / INTERFACE_FILE).read_text())
    (folder / INTERFACE_FILE).write_text(json.dumps({**data, **changes}))
    with pytest.raises(CheckpointError, match=message):
        SingleGraphEngine(folder)


def test_a_classifier_runs_the_folder(whole, texts):
    classifier = Classifier.from_pretrained(whole)
    expected = tiny.classifier(seed=3).predict(texts)
    found = classifier.predict(texts)
    assert found.labels == expected.labels
    assert found.num_tokens.tolist() == expected.num_tokens.tolist()
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    with pytest.raises(InputError, match="an exported folder can only predict and be evaluated"):
        classifier.explain("a film")
