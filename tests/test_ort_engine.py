"""The engine of exported folders: what it refuses, its threads, and its exit rule."""

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
from exported import write
from magic_pyramid.config import ExitConfig
from magic_pyramid.engine import ort_session, threads
from magic_pyramid.engine.array_rule import ArrayExitRule, ArrayState, uncertainty
from magic_pyramid.engine.exported import exported_for
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.ort_engine import OrtEngine
from magic_pyramid.engine.ort_session import OrtGraph
from magic_pyramid.engine.scheduler import cut_batches
from magic_pyramid.engine.segments import PLAN_FILE
from magic_pyramid.errors import CheckpointError, ConfigError, MissingExtraError
from magic_pyramid.exiting import criteria
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


# Refusals


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
    assert exported_for(tmp_path) is None
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
    monkeypatch.setattr(threads, "_PREFERENCE", threads._Preference())


@pytest.mark.usefixtures("no_pool")
def test_all_graphs_share_one_pool_whose_size_the_first_one_chooses():
    runtime = Runtime()
    for count in (2, 2, None):
        options = Options()
        ort_session._set_threads(runtime, options, count)
        assert not options.use_per_session_threads
    assert runtime.pools == [(2, 1)]
    threads.prefer_threads(4)
    ort_session._set_threads(runtime, Options(), None)
    with pytest.raises(ConfigError, match="threads is 7; onnxruntime's pool of this process was made with 2"):
        ort_session._set_threads(runtime, Options(), 7)


@pytest.mark.usefixtures("no_pool")
@pytest.mark.parametrize("count", [1, None])
def test_one_thread_needs_no_pool(count):
    runtime, options = Runtime(), Options()
    threads.prefer_threads(1)
    ort_session._set_threads(runtime, options, count)
    assert options.use_per_session_threads
    assert options.intra_op_num_threads == 1
    assert not runtime.pools


@pytest.mark.usefixtures("no_pool")
def test_a_pool_that_nobody_gave_a_number_takes_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(ort_session, "usable_cores", lambda: 3)
    runtime = Runtime()
    ort_session._set_threads(runtime, Options(), None)
    assert runtime.pools == [(3, 1)]


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
    no_head = Setting(prune_scale=0.0, exit_threshold=0.1, exit_layers=())
    assert engine.plan.segments_for(no_head) == (engine.plan.dense,)
    parameters = sum(parameter.numel() for parameter in tiny.build().parameters())
    assert (whole / "weights.bin").stat().st_size < 4.4 * parameters


# The exit rule on arrays


@pytest.mark.parametrize("name", CRITERIA)
@given(data=st.data())
def test_the_rule_on_arrays_decides_as_the_one_on_tensors(name, data):
    config = CRITERIA[name]
    threshold = data.draw(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0, (0.1, 0.9)]))
    rows = data.draw(st.integers(1, 4))
    theirs, ours = criteria.ExitRule(config, threshold), ArrayExitRule(config, threshold)
    their_state, our_state = theirs.start(rows), ours.start(rows)
    for layer in (0, 1):
        seed = data.draw(st.integers(0, 99))
        generator = np.random.default_rng(seed)
        logits = generator.normal(0, 30 if seed % 2 else 2, (rows, config.num_labels)).astype(np.float32)
        expected, their_state = theirs.test(torch.from_numpy(logits), their_state, layer=layer)
        found, our_state = ours.test(logits, our_state, layer=layer)
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
    _, state = rule.test(np.eye(3, dtype=np.float32), rule.start(3), layer=0)
    parts = [state.select(np.array([True, False, False])), state.select(np.array([False, True, True]))]
    joined = ArrayState.joined(parts)
    assert rule.test(np.eye(3, dtype=np.float32), joined, layer=1)[0].all()


def test_batches_above_the_budget_are_cut():
    cut = cut_batches([[0, 1, 2], [3]], [4, 5, 6, 99], tokens_per_batch=10, enough_tokens=100)
    assert cut == [[0, 1], [2], [3]]


def test_a_batch_is_cut_where_attention_would_pad_much():
    lengths = [4, 4, 4, 5, 9]
    assert cut_batches([[0, 1, 2, 3, 4]], lengths, tokens_per_batch=99, enough_tokens=12) == [
        [0, 1, 2],
        [3, 4],
    ]
    assert cut_batches([[0, 1, 2, 3, 4]], lengths, tokens_per_batch=99, enough_tokens=50) == [[0, 1, 2, 3, 4]]
