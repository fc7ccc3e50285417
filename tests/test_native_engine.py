"""Around the native engine: how it is built, the folders it reads, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny
from cases import LENGTHS, SETTINGS, assert_same
from magic_pyramid.engine.exported import exported_for
from magic_pyramid.engine.native_engine import NativeEngine
from magic_pyramid.engine.native_folder import PLAN_FILE, WEIGHTS_FILE, read_weights, write_weights
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from magic_pyramid.export import export_native, native_engine
from magic_pyramid.export.native import native_weights
from magic_pyramid.native import build, library
from magic_pyramid.native.library import is_built
from magic_pyramid.tokenization import EncodedTexts, TextEncoder

SOURCE = Path(__file__).parents[1] / "src"
needs_engine = pytest.mark.skipif(not is_built(), reason="the native engine is not built")


@pytest.fixture
def folder(tmp_path) -> Path:
    export_native(tiny.build(seed=3), tmp_path / "native", encoder=TextEncoder(tiny.tokenizer()))
    return tmp_path / "native"


# The folder


@needs_engine
@pytest.mark.parametrize("name", [*tiny.FAMILIES, "no pruner"])
def test_a_folder_gives_the_answers_of_its_model(name, tmp_path):
    config = tiny.CONFIG.replace(prune=None) if name == "no pruner" else tiny.CONFIG
    model = tiny.build(config.replace(backbone=tiny.FAMILIES.get(name, tiny.BACKBONE)), seed=3)
    export_native(model, tmp_path / "native", encoder=None)
    engine = NativeEngine.from_folder(tmp_path / "native", threads=1)
    encoded = tiny.encoded(*LENGTHS)
    for setting in SETTINGS.values():
        assert_same(
            engine.run(encoded, setting=setting),
            TorchEngine(model).run(encoded, setting=setting),
            tolerance=5e-4,
        )


@needs_engine
@pytest.mark.parametrize("instruction_set", library.instruction_sets() if is_built() else ("none",))
def test_an_int8_folder_gives_the_answers_of_the_int8_engine(tmp_path, instruction_set):
    model = tiny.build(seed=3)
    plan = export_native(model, tmp_path / "native", encoder=None, precision="int8")
    assert plan.precision == "int8"
    encoded = tiny.encoded(*LENGTHS)
    how = {"precision": "int8", "threads": 1, "instruction_set": instruction_set}
    weights = read_weights(tmp_path / "native" / WEIGHTS_FILE)
    stored = NativeEngine(model.config, weights, **how).run(encoded, setting=SETTINGS["pruned"])
    direct = native_engine(model, **how).run(encoded, setting=SETTINGS["pruned"])
    assert_same(stored, direct)


def test_an_int8_folder_is_a_quarter_of_the_size(tmp_path):
    backbone = tiny.BACKBONE.replace(hidden_size=64, intermediate_size=256)
    weights = native_weights(tiny.build(tiny.PLAIN.replace(backbone=backbone)))
    sizes = {}
    for precision in ("fp32", "int8"):
        write_weights(weights, tmp_path / precision, precision=precision)
        sizes[precision] = (tmp_path / precision).stat().st_size
    assert sizes["int8"] < 0.35 * sizes["fp32"]
    for name, value in read_weights(tmp_path / "int8").items():
        np.testing.assert_allclose(value, weights[name], atol=float(np.abs(weights[name]).max()) / 250)


@pytest.mark.parametrize("file", [WEIGHTS_FILE, "tokenizer.json", "config.json"])
def test_a_damaged_file_is_refused_by_name(folder, file):
    data = bytearray((folder / file).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{file} is damaged or not the file that was exported"):
        NativeEngine.from_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_version": 99}, "plan_version is 99, written by a newer release"),
        ({"plan_version": None}, "plan_version is None; it must be a whole number"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"sha256": {}}, "precision is 'fp32' and the files are ;"),
        ({"model": {}}, "cannot be read"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(folder, changes, message):
    plan = json.loads((folder / PLAN_FILE).read_text())
    (folder / PLAN_FILE).write_text(json.dumps({**plan, **changes}))
    with pytest.raises(CheckpointError, match=f"{PLAN_FILE}.*{message}"):
        NativeEngine.from_folder(folder)


def test_an_export_replaces_an_older_one_and_nothing_else(folder, tmp_path):
    export_native(tiny.build(seed=4), folder, encoder=None, precision="int8")
    assert exported_for(folder) == "native"
    assert not (folder / "tokenizer.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="holds something that is no export"):
        export_native(tiny.build(), tmp_path / "mine", encoder=None)
    with pytest.raises(ConfigError, match="precision is 'int4'; did you mean 'int8'"):
        export_native(tiny.build(), tmp_path / "new", encoder=None, precision="int4")


# The engine


@needs_engine
def test_weights_that_do_not_fit_are_refused_by_name():
    model = tiny.build()
    weights = native_weights(model)
    with pytest.raises(CheckpointError, match=r"the tensor final_head.output.bias is missing"):
        NativeEngine(model.config, {k: v for k, v in weights.items() if k != "final_head.output.bias"})
    wrong = {**weights, "layers.1.feedforward.up.weight": np.zeros((2, 2), dtype=np.float32)}
    with pytest.raises(
        CheckpointError, match=r"layers.1.feedforward.up.weight has 4 numbers; it must have 384"
    ):
        NativeEngine(model.config, wrong)


@needs_engine
def test_a_missing_exit_head_is_refused():
    model = tiny.build()
    kept = {k: v for k, v in native_weights(model).items() if not k.startswith("exit_heads.1.")}
    with pytest.raises(CheckpointError, match=r"the exit heads of the layers \[1\] are missing"):
        NativeEngine(model.config, kept)


@needs_engine
def test_every_token_needs_a_type():
    with pytest.raises(InputError, match="3 token ids and 2 token types for 3 tokens"):
        native_engine(tiny.build()).run(EncodedTexts([[2, 4, 3]], [[0, 0]]), setting=SETTINGS["both"])


@needs_engine
def test_an_unknown_instruction_set_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"instruction_set is 'sse9'; .*portable"):
        native_engine(tiny.build(), instruction_set="sse9")


@needs_engine
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("ids", "types", "message"),
    [
        ([2, 99], [0, 0], r"a token id is 99; it must lie in \[0, 28\]"),
        ([2, -1], [0, 0], r"a token id is -1"),
        ([2, 5], [0, 2], r"a token type is 2; it must lie in \[0, 1\]"),
        ([2] * 65, [0] * 65, r"a length is 65; it must lie in \[1, 64\]"),
        ([], [], r"a length is 0"),
    ],
)
def test_inputs_outside_the_tables_are_refused(ids, types, message, threads):
    engine = native_engine(tiny.build(seed=3), threads=threads)
    with pytest.raises(InputError, match=message):
        engine.run(EncodedTexts([[2, 4, 3], ids], [[0] * 3, types]), setting=SETTINGS["both"])


@needs_engine
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_can_go_on(tmp_path):
    """A child has the memory of the helper threads, but not the threads: it must not wait for them."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, tiny\n"
        "from magic_pyramid.engine.interface import DENSE\n"
        "from magic_pyramid.export import native_engine\n"
        "engine, encoded = native_engine(tiny.build(seed=3), threads=2), tiny.encoded(9, 2, 14)\n"
        "before = engine.run(encoded, setting=DENSE).logits\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    same = np.array_equal(engine.run(encoded, setting=DENSE).logits, before)\n"
        "    del engine\n"
        "    os._exit(0 if same else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    tests = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, tests],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


@needs_engine
def test_the_engine_needs_no_torch(folder):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from magic_pyramid.engine.interface import default_setting\n"
        "from magic_pyramid.engine.native_engine import NativeEngine\n"
        "from magic_pyramid.tokenization import TextEncoder\n"
        f"engine = NativeEngine.from_folder({str(folder)!r}, threads=1)\n"
        f"encoder = TextEncoder.from_pretrained({str(folder)!r})\n"
        "encoded = encoder.encode(['a quiet film', 'bad'], max_length=32)\n"
        "print(engine.run(encoded, setting=default_setting(engine.config)).logits.shape)\n"
    )
    environment = {"PYTHONPATH": str(SOURCE), "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 3)"


# The build


def test_a_missing_or_outdated_library_says_how_to_build_it(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library._library.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match=r"not built: python -m magic_pyramid.native.build"):
            library.instruction_sets()
        assert not library.is_built()
    finally:
        library._library.cache_clear()


@needs_engine
def test_a_library_of_other_sources_is_refused(monkeypatch):
    monkeypatch.setattr(library, "source_hash", lambda: "another")
    library._library.cache_clear()
    try:
        with pytest.raises(MissingExtraError, match="built from other sources"):
            library.instruction_sets()
    finally:
        library._library.cache_clear()


def test_a_build_without_a_compiler_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler is found; install g\+\+"):
        build.compile_engine(tmp_path)
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(build.BuildError, match="cannot be run"):
        build.compile_engine(tmp_path)
    monkeypatch.setenv("CXX", f"{sys.executable} -c 'import sys; sys.exit(\"no such flag\")'")
    with pytest.raises(build.BuildError, match="failed:\nno such flag"):
        build.compile_engine(tmp_path)


def test_the_hash_follows_the_sources(tmp_path, monkeypatch):
    before = build.source_hash()
    copy = Path(shutil.copytree(build.SOURCES, tmp_path / "native"))
    monkeypatch.setattr(build, "SOURCES", copy)
    assert build.source_hash() == before
    (copy / "vector.h").write_text("// changed")
    assert build.source_hash() != before
