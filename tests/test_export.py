"""What an exported folder holds, what is refused, and the bricks its graphs are made of."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

import tiny
from exported import engine_of, write
from magic_pyramid.classifier import Classifier
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.ort_session import OrtGraph
from magic_pyramid.engine.segments import PLAN_FILE
from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.export import accept_export, differences, export_onnx, random_inputs
from magic_pyramid.export.folder import segments_of
from magic_pyramid.export.graph import FLOAT, GraphBuilder, Port
from magic_pyramid.export.linear import LARGEST_CODE, PRODUCTS, quantize_matrix

SOURCE = Path(__file__).parents[1] / "src"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exported") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# The folder


def test_the_folder_holds_graphs_plan_config_and_tokenizer(whole):
    plan = json.loads((whole / PLAN_FILE).read_text())
    assert [part["file"] for part in plan["segments"]] == [f"layers_{i}_{i}.onnx" for i in range(3)]
    assert [part["tests_exits"] for part in plan["segments"]] == [True, True, False]
    assert plan["exit_heads"] == {"0": "exit_head_0.onnx", "1": "exit_head_1.onnx"}
    assert plan["model"] == tiny.CONFIG.to_dict()
    assert set(plan["sha256"]) == {file.name for file in whole.iterdir()} - {PLAN_FILE}
    assert {"config.json", "tokenizer.json", "dense.onnx", "final_head.onnx", "weights.bin"} < set(
        plan["sha256"]
    )


def test_graphs_are_valid_and_their_knob_is_an_input(whole):
    for file in whole.glob("*.onnx"):
        onnx.checker.check_model(str(file), full_check=True)
    segment = onnx.load(whole / "layers_1_1.onnx", load_external_data=False)
    assert "prune_scale" in {port.name for port in segment.graph.input}
    assert {item.domain: item.version for item in segment.opset_import} == {"": 17, "com.microsoft": 1}


def test_layers_without_exits_are_one_graph():
    assert [(part.first, part.last) for part in segments_of(12, ())] == [(0, 11)]
    assert [(part.first, part.last) for part in segments_of(6, {1, 2, 5})] == [(0, 1), (2, 2), (3, 5)]


def test_int8_takes_less_space(whole, tmp_path):
    config = tiny.CONFIG.replace(backbone=tiny.BACKBONE.replace(hidden_size=64, intermediate_size=256))
    sizes = {}
    for precision in ("fp32", "int8"):
        out = write(tmp_path / precision, tiny.build(config), precision=precision)
        sizes[precision] = (out / "weights.bin").stat().st_size
    assert sizes["int8"] < 0.35 * sizes["fp32"]


def test_an_older_export_is_replaced(folder):
    (folder / "leftover.onnx").write_text("old")
    write(folder, tiny.build(tiny.PLAIN))
    assert sorted(file.name for file in folder.glob("layers_*")) == ["layers_0_2.onnx"]
    assert not (folder / "leftover.onnx").exists()
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_what_is_no_export_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something that is no export; choose a new folder"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_refused_export_leaves_nothing_behind(tmp_path):
    def refuse(_: Path) -> None:
        raise CheckpointError("no")

    with pytest.raises(CheckpointError, match="no"):
        write(tmp_path / "new", accept=refuse)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="new cannot be written"):
        write(tmp_path / "file" / "new")


def test_an_unknown_precision_or_boundary_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="precision is 'int4'; did you mean 'int8'"):
        write(tmp_path / "new", precision="int4")
    with pytest.raises(ConfigError, match="boundaries contains 3; the layers are 0 to 2"):
        write(tmp_path / "new", boundaries=(3,))


# Acceptance


def test_an_export_is_compared_on_random_inputs_and_on_texts(whole):
    model, encoded = tiny.build(seed=3), tiny.encoded(4, 9, 6)
    found = accept_export(model, whole, encoded=encoded, labels=[0, 1, 2])
    assert found["random"]["logit_difference"] < 1e-4
    assert found["random"]["changed_decisions"] == 0
    assert found["texts"]["accuracy"] == found["texts"]["exported_accuracy"]


def test_an_export_of_another_model_is_refused(whole):
    with pytest.raises(CheckpointError, match="the exported logits differ from the model's by"):
        accept_export(tiny.build(seed=4), whole)


def test_an_export_that_loses_too_much_is_refused_unless_any_loss_is_allowed(tmp_path):
    folder = write(tmp_path / "int8", tiny.build(seed=4), precision="int8")
    model, encoded = tiny.build(seed=3), tiny.encoded(*range(2, 30))
    labels = model_labels(model, encoded)
    with pytest.raises(CheckpointError, match=r"loses .* points on 28 texts; at most 0.5 may be lost"):
        accept_export(model, folder, encoded=encoded, labels=labels)
    accepted = accept_export(model, folder, encoded=encoded, labels=labels, max_drop=None)
    assert accepted["texts"]["accuracy"] == 1.0


def model_labels(model, encoded):
    from magic_pyramid.engine.interface import default_setting
    from magic_pyramid.engine.torch_engine import TorchEngine

    return TorchEngine(model).run(encoded, setting=default_setting(model.config)).logits.argmax(1).tolist()


@pytest.mark.parametrize("config", [tiny.CONFIG, tiny.MULTI_LABEL.replace(exit=None), tiny.REGRESSION])
def test_without_labels_the_drop_is_the_share_of_changed_answers(config):
    model = tiny.build(config)
    found = differences(model, engine_of(model), random_inputs(config))
    assert found.num_examples == 16
    assert found.drop == 0.0


# The classifier


def test_a_classifier_runs_an_exported_folder(whole, texts):
    classifier = Classifier.from_pretrained(whole)
    expected = tiny.classifier(seed=3).predict(texts)
    found = classifier.predict(texts)
    assert isinstance(classifier.engine, OrtEngine)
    assert found.labels == expected.labels
    assert found.num_tokens.tolist() == expected.num_tokens.tolist()
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    with pytest.raises(InputError, match="an exported folder can only predict and be evaluated"):
        classifier.explain("a film")


def test_the_engine_must_fit_the_folder(whole, tmp_path):
    tiny.classifier().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is no exported folder; write one: magic-pyramid export"):
        Classifier.from_pretrained(tmp_path, engine="onnx")
    with pytest.raises(
        CheckpointError, match="was exported for the engine 'onnx', and 'torch' does not run it"
    ):
        Classifier.from_pretrained(whole, engine="torch")
    with pytest.raises(ConfigError, match="engine is 'onx'; did you mean 'onnx'"):
        Classifier.from_pretrained(whole, engine="onx")


# Products in int8


def run_product(precision: str, values: np.ndarray, matrix: np.ndarray, tmp_path: Path) -> np.ndarray:
    graph = GraphBuilder()
    graph.rename(PRODUCTS[precision](graph, "x", matrix), "y")
    rows, columns = matrix.shape
    model = graph.model("product", [Port("x", FLOAT, ("n", rows))], [Port("y", FLOAT, ("n", columns))])
    (tmp_path / "product.onnx").write_bytes(model.SerializeToString())
    return OrtGraph(tmp_path / "product.onnx", threads=1).run({"x": values})["y"]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_codes_do_not_saturate(sign, tmp_path):
    """AVX2 without VNNI adds pairs of products in 16 bits; full 8-bit weights would overflow there."""
    values, matrix = np.full((3, 512), sign, np.float32), np.ones((512, 16), np.float32)
    matrix[:, 8:] = -1
    np.testing.assert_allclose(run_product("int8", values, matrix, tmp_path), values @ matrix, rtol=1e-5)
    codes = quantize_matrix(matrix).codes.astype(int)
    assert np.abs(codes).max() == LARGEST_CODE
    assert 2 * 255 * LARGEST_CODE <= 2**15 - 1


def test_a_row_does_not_feel_the_rows_beside_it(tmp_path):
    generator = np.random.default_rng(0)
    values = generator.standard_normal((5, 64), dtype=np.float32)
    matrix = generator.standard_normal((64, 32), dtype=np.float32)
    values[1:] *= 1000
    together = run_product("int8", values, matrix, tmp_path)
    np.testing.assert_array_equal(run_product("int8", values[:1], matrix, tmp_path)[0], together[0])
    exact = values @ matrix
    error = np.abs(together - exact).max(axis=1) / np.abs(exact).max(axis=1)
    assert (error < 0.05).all(), error


def test_rows_of_zeros_give_zeros(tmp_path):
    found = run_product("int8", np.zeros((2, 8), np.float32), np.ones((8, 8), np.float32), tmp_path)
    assert not found.any()


def test_export_of_a_model_without_tokenizer_has_no_tokenizer(tmp_path):
    export_onnx(tiny.build(tiny.PLAIN), tmp_path / "new", encoder=None)
    assert not (tmp_path / "new" / "tokenizer.json").exists()
