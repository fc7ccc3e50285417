"""What an exported folder holds, what is refused, and the bricks its graphs are made of."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from exported import engine_of, write
from magic_pyramid.classifier import Classifier
from magic_pyramid.config import ExitConfig
from magic_pyramid.engine import ort_session
from magic_pyramid.engine.array_rule import ArrayExitRule, ArrayState, uncertainty
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.ort_session import OrtGraph
from magic_pyramid.engine.scheduler import cut_by_tokens
from magic_pyramid.engine.segments import PLAN_FILE, is_exported
from magic_pyramid.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from magic_pyramid.exiting import criteria
from magic_pyramid.export import accept_export, differences, export_onnx, random_inputs
from magic_pyramid.export.folder import segments_of
from magic_pyramid.export.graph import FLOAT, GraphBuilder, Port
from magic_pyramid.export.linear import LARGEST_CODE, PRODUCTS, quantize_matrix
from test_engine import CRITERIA

SOURCE = Path(__file__).parents[1] / "src"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exported") / "whole")


@pytest.fixture
def folder(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def edit_plan(folder: Path, **changes) -> None:
    plan = json.loads((folder / PLAN_FILE).read_text())
    (folder / PLAN_FILE).write_text(json.dumps({**plan, **changes}))


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


# Refusals of the engine


@pytest.mark.parametrize("name", ["layers_1_1.onnx", "exit_head_0.onnx", "weights.bin", "tokenizer.json"])
def test_a_damaged_file_is_refused_by_name(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is damaged or not the file that was exported"):
        OrtEngine(folder, threads=1)


def test_a_truncated_file_is_refused_by_name(folder):
    file = folder / "layers_0_0.onnx"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"layers_0_0.onnx is damaged"):
        OrtEngine(folder, threads=1)


def test_a_missing_file_is_refused_by_name(folder):
    (folder / "final_head.onnx").unlink()
    with pytest.raises(CheckpointError, match=r"final_head.onnx cannot be read \(No such file"):
        OrtEngine(folder, threads=1)


def test_files_of_another_export_are_refused(folder, tmp_path):
    other = write(tmp_path / "other", tiny.build(seed=4))
    shutil.copy(other / "layers_2_2.onnx", folder)
    with pytest.raises(CheckpointError, match=r"layers_2_2.onnx is damaged or not the file"):
        OrtEngine(folder, threads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_version": 2}, "plan_version is 2, written by a newer release"),
        ({"plan_version": "1"}, "plan_version is '1'; it must be a whole number"),
        ({"opset": 99}, "opset is 99; this release drives up to 17"),
        ({"precision": "int4"}, "precision is 'int4'; it must be one of fp32, int8"),
        ({"segments": []}, r"the segments run the layers \[\]; the model has 3"),
        ({"exit_heads": {}}, r"exit heads stand after \[\]; the model has them after \[0, 1\]"),
        ({"sha256": {}}, "a graph has no checksum"),
        ({"sha256": {"../x": ""}}, "a file lies outside the folder"),
        ({"model": {}}, "cannot be read"),
        ({"segments": [{}]}, "'file' is missing"),
        ({"embeddings": "other.onnx"}, "a graph has no checksum"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(folder, changes, message):
    edit_plan(folder, **changes)
    with pytest.raises(CheckpointError, match=f"plan.json.*{message}"):
        OrtEngine(folder, threads=1)


def test_an_exit_head_inside_a_segment_is_refused(folder):
    plan = json.loads((folder / PLAN_FILE).read_text())
    first, second, third = plan["segments"]
    edit_plan(folder, segments=[{**first, "last_layer": 1}, third])
    with pytest.raises(CheckpointError, match="an exit head stands inside a segment"):
        OrtEngine(folder, threads=1)
    assert second["last_layer"] == 1


@pytest.mark.parametrize(
    ("content", "message"), [("{", "is not valid JSON"), ("[]", "holds list; it must hold an object")]
)
def test_a_plan_that_is_no_object_is_refused(folder, content, message):
    (folder / PLAN_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=f"plan.json {message}"):
        OrtEngine(folder, threads=1)


def test_a_folder_without_a_plan_is_refused(tmp_path):
    assert not is_exported(tmp_path)
    with pytest.raises(CheckpointError, match=r"plan.json cannot be read .* `magic-pyramid export` wrote"):
        OrtEngine(tmp_path, threads=1)


def test_a_graph_of_a_newer_opset_is_refused_by_name(folder):
    file = folder / "embeddings.onnx"
    model = onnx.load(file, load_external_data=False)
    model.opset_import[0].version = 9999
    file.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match=r"embeddings.onnx: onnxruntime refuses the graph"):
        OrtGraph(file, threads=1)


class Runtime:
    """What onnxruntime offers for threads."""

    def __init__(self):
        self.pools = []

    def set_global_thread_pool_sizes(self, *sizes):
        self.pools.append(sizes)


class Options:
    use_per_session_threads = True
    intra_op_num_threads = 0


@pytest.fixture
def no_pool(monkeypatch):
    monkeypatch.setattr(ort_session, "_THREADS", ort_session._Threads())


@pytest.mark.usefixtures("no_pool")
def test_all_graphs_share_one_pool_whose_size_the_first_one_chooses():
    runtime = Runtime()
    for threads in (2, 2, None):
        options = Options()
        ort_session._set_threads(runtime, options, threads)
        assert not options.use_per_session_threads
    assert runtime.pools == [(2, 1)]
    ort_session.prefer_threads(4)
    ort_session._set_threads(runtime, Options(), None)
    with pytest.raises(ConfigError, match="threads is 7; onnxruntime's pool of this process was made with 2"):
        ort_session._set_threads(runtime, Options(), 7)


@pytest.mark.usefixtures("no_pool")
@pytest.mark.parametrize("threads", [1, None])
def test_one_thread_needs_no_pool(threads):
    runtime, options = Runtime(), Options()
    ort_session.prefer_threads(1)
    ort_session._set_threads(runtime, options, threads)
    assert options.use_per_session_threads
    assert options.intra_op_num_threads == 1
    assert not runtime.pools


@pytest.mark.usefixtures("no_pool")
def test_a_runtime_that_cannot_share_gets_threads_of_its_own():
    options = Options()
    ort_session._set_threads(object(), options, 3)
    assert options.use_per_session_threads
    assert options.intra_op_num_threads == 3


def test_a_missing_library_is_named_with_the_line_that_installs_it(whole, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime: pip install 'magic-pyramid\[onnx\]'"):
        OrtEngine(whole)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"onnx: pip install 'magic-pyramid\[onnx\]'"):
        write(tmp_path / "new")


def test_the_engine_needs_no_torch(whole):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from magic_pyramid.engine.ort_engine import OrtEngine\n"
        "from magic_pyramid.engine.interface import default_setting\n"
        "from magic_pyramid.tokenization import EncodedTexts\n"
        f"engine = OrtEngine({str(whole)!r}, threads=1)\n"
        "ids = [[2, 5, 6, 3]]\n"
        "output = engine.run(EncodedTexts(ids, [[0] * 4]), setting=default_setting(engine.config))\n"
        "sys.exit(0 if output.logits.shape == (1, 3) else 'no logits')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(SOURCE), "PATH": "", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_that_was_replaced_under_an_engine_is_noticed(folder):
    engine = OrtEngine(folder, threads=1)
    write(folder, tiny.build(seed=4))
    with pytest.raises(CheckpointError, match=r"is damaged or not the file that was exported"):
        engine.run(tiny.encoded(4), setting=DENSE)


def test_dense_runs_in_one_graph_and_holds_no_weight_twice_on_disk(whole):
    engine = OrtEngine(whole, threads=1)
    assert engine.plan.segments_for(DENSE) == (engine.plan.dense,)
    assert len(engine.plan.segments_for(Setting(prune_scale=0.0, exit_threshold=0.1))) == 3
    assert len(engine.plan.segments_for(Setting(prune_scale=1.0))) == 3
    parameters = sum(parameter.numel() for parameter in tiny.build().parameters())
    assert (whole / "weights.bin").stat().st_size < 4.4 * parameters


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
    with pytest.raises(CheckpointError, match="is an exported folder, which PyTorch does not run"):
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


# The exit rule on arrays


@pytest.mark.parametrize("name", CRITERIA)
@given(data=st.data())
def test_the_rule_on_arrays_decides_as_the_one_on_tensors(name, data):
    config = CRITERIA[name]
    threshold = data.draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    rows = data.draw(st.integers(1, 4))
    theirs, ours = criteria.ExitRule(config, threshold), ArrayExitRule(config, threshold)
    their_state, our_state = theirs.start(rows), ours.start(rows)
    for seed in data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=4)):
        generator = np.random.default_rng(seed)
        logits = generator.normal(0, 30 if seed % 2 else 2, (rows, config.num_labels)).astype(np.float32)
        expected, their_state = theirs.test(torch.from_numpy(logits), their_state)
        found, our_state = ours.test(logits, our_state)
        assert found.tolist() == expected.tolist()


def test_sure_answers_have_no_uncertainty_and_uniform_ones_have_all():
    logits = np.array([[0, 0, 0], [500, 0, -500]], np.float32)
    for criterion in ("entropy", "max_prob", "margin"):
        found = uncertainty(logits, problem_type="single_label", criterion=criterion)
        np.testing.assert_allclose(found, [1.0, 0.0], atol=1e-6)
    assert uncertainty(logits[:1], problem_type="multi_label", criterion="entropy") == pytest.approx(1.0)
    one_label = uncertainty(np.ones((2, 1), np.float32), problem_type="single_label", criterion="entropy")
    assert one_label.tolist() == [0.0, 0.0]


def test_the_state_of_a_rule_is_selected_and_joined():
    rule = ArrayExitRule(tiny.CONFIG.replace(exit=ExitConfig(criterion="patience", patience=2)), 0.5)
    _, state = rule.test(np.eye(3, dtype=np.float32), rule.start(3))
    parts = [state.select(np.array([True, False, False])), state.select(np.array([False, True, True]))]
    joined = ArrayState.joined(parts)
    assert rule.test(np.eye(3, dtype=np.float32), joined)[0].all()


def test_batches_above_the_budget_are_cut():
    assert cut_by_tokens([[0, 1, 2], [3]], [4, 5, 6, 99], tokens_per_batch=10) == [[0, 1], [2], [3]]


def test_export_of_a_model_without_tokenizer_has_no_tokenizer(tmp_path):
    export_onnx(tiny.build(tiny.PLAIN), tmp_path / "new", encoder=None)
    assert not (tmp_path / "new" / "tokenizer.json").exists()
