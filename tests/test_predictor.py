import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from cli_models import write_rows
from magic_pyramid import CALIBRATED, Classifier, Predictor
from magic_pyramid.errors import CheckpointError
from magic_pyramid.export import export_native
from magic_pyramid.native.library import is_built
from magic_pyramid.tokenization import TextEncoder

SOURCE = Path(__file__).parents[1] / "src"
TEXTS = ["a lovely film", ("two hours", "i want back"), "a"]
WITHOUT = """
import sys
for name in ("torch", "transformers", "datasets", "matplotlib", "accelerate", "huggingface_hub"):
    sys.modules[name] = None
"""

pytestmark = pytest.mark.skipif(not is_built(), reason="the native engine is not compiled")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "native"
    export_native(
        tiny.build(seed=3), folder, encoder=TextEncoder(tiny.tokenizer()), info={"tuning": {"a": 1}}
    )
    return folder


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program, *map(str, arguments)],
        env={"PYTHONPATH": str(SOURCE), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_it_answers_as_the_classifier_does(exported):
    predictor, classifier = Predictor.from_pretrained(exported), Classifier.from_pretrained(exported)
    assert type(predictor) is Predictor
    for knobs in ({}, {"exit_threshold": None, "prune_scale": 0.0}, {"exit_threshold": CALIBRATED}):
        ours, theirs = predictor.predict(TEXTS, **knobs), classifier.predict(TEXTS, **knobs)
        assert ours.labels == theirs.labels
        assert (ours.probabilities == theirs.probabilities).all()
    assert predictor.config == classifier.config
    assert predictor.info == classifier.info
    assert predictor.info["tuning"] == {"a": 1}


def test_it_answers_where_only_the_small_installation_is(exported):
    program = (
        "from magic_pyramid import Predictor\n"
        "import json\n"
        "out = Predictor.from_pretrained(sys.argv[1]).predict(json.loads(sys.argv[2]))\n"
        "print(json.dumps([out.labels, out.exit_layer.tolist(), out.gflops.tolist()]))\n"
    )
    done = run(program, exported, json.dumps([text for text in TEXTS if isinstance(text, str)]))
    assert done.returncode == 0, done.stderr
    wanted = Predictor.from_pretrained(exported).predict([text for text in TEXTS if isinstance(text, str)])
    assert json.loads(done.stdout) == [wanted.labels, wanted.exit_layer.tolist(), wanted.gflops.tolist()]


def test_the_command_line_answers_there_too(exported, tmp_path):
    write_rows(tmp_path / "in.jsonl", [{"text": "a lovely film", "id": 7}])
    program = "from magic_pyramid.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    done = run(program, "predict", exported, "--input", tmp_path / "in.jsonl", "--threads", "1")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["id"] == 7
    assert answer["label"] == Predictor.from_pretrained(exported).predict(["a lovely film"]).labels[0]


def test_what_needs_more_says_what_to_install(exported):
    used = run("import magic_pyramid\nmagic_pyramid.Classifier\n")
    assert "Classifier needs torch: pip install 'magic-pyramid[train]'" in used.stderr
    program = "from magic_pyramid.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    done = run(program, "info", "demo")
    assert done.returncode == 4
    assert done.stderr.strip() == "error: this command needs torch: pip install 'magic-pyramid[train]'"


def test_what_is_no_export_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is no exported folder"):
        Predictor.from_pretrained(tmp_path)
