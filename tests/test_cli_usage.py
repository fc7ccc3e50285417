import io
import sys

import pytest

from cli_models import command_line, numbered_rows, read_rows, save_tiny
from magic_pyramid.cli import main

VERBS = (
    *("demo", "train", "calibrate", "evaluate", "predict", "explain", "export", "tune-engine"),
    *("bench", "reproduce", "info"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def run(capsys):
    return command_line(capsys)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_verb(run, arguments):
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert all(f" {verb} " in out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(run, verb):
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert "Examples:" in out
    assert "--json" in out


def test_the_version_is_shown(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("magic-pyramid 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["info", "--jsn"], "there is no option --jsn; did you mean '--json'?"),
        (["train", "--model", "m", "--data", "d"], "Missing option '--output'"),
        (["evaluate", "m", "--data", "d", "--repeats", "many"], "Invalid value for '--repeats'"),
        (["train", "--model", "m", "--data", "d", "--output", "o", "--preset", "ltpp"], "did you mean 'ltp'"),
        (
            ["train", "--model", "m", "--data", "d", "--output", "o", "--set", "exit.threshhold=1"],
            "did you mean 'exit.threshold'",
        ),
        (
            ["train", "--model", "m", "--data", "d", "--output", "o", "--epochs", "fintune=1"],
            "did you mean 'finetune'",
        ),
        (["predict", "m", "a text", "--input", "f.csv"], "texts and --input were given"),
        (["predict", "m", "a", "b", "--text-pair", "c"], "--text-pair goes with one text"),
        (["predict", "m", "a", "--resume"], "--resume goes on with a file"),
        (["predict", "m", "--input", "f.cvs"], "does not end like a known format"),
        (["predict", "m", "--input", "-", "--format", "jsn"], "did you mean 'json'"),
        (["predict", "m", "a", "--output", "out.parquet"], "predictions are not written as 'parquet'"),
        (["predict", "m", "a", "--exit-threshold", "2"], "it must lie in"),
        (["explain", "m", "a", "--png", "no/such/folder.png"], "a folder that does not exist"),
        (["bench", "m"], "bench needs labelled texts: give --data"),
        (["bench", "demo", "--threads", "0"], "--threads is '0'; give different whole numbers"),
        (["bench", "demo", "--batch", "8,8"], "--batch is '8,8'; give different whole numbers"),
        (["bench", "demo", "--lengths", "16,x"], "--lengths is '16,x'; give different whole numbers"),
        (["bench", "demo", "--only", "onnxruntim"], "did you mean 'onnxruntime'?"),
        (["bench", "demo", "--plot", "no/such/folder.png"], "a folder that does not exist"),
    ],
    ids=lambda value: " ".join(value[:1] + value[-2:]) if isinstance(value, list) else "",
)
def test_a_usage_error_is_one_message_with_the_nearest_choice(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err


def test_an_input_that_is_its_own_output_is_refused(run, tmp_path):
    path = numbered_rows(tmp_path / "rows.jsonl", 3)
    code, _, err = run("predict", "m", "--input", path, "--output", path)
    assert code == 2
    assert "--input and --output are the same file" in err
    assert len(read_rows(path)) == 3


def test_without_texts_a_terminal_is_not_read(run, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    code, _, err = run("predict", "m")
    assert code == 2
    assert "nothing to answer" in err


def test_a_missing_model_is_named(run, tmp_path):
    code, out, err = run("info", tmp_path / "nowhere")
    assert (code, out) == (3, "")
    assert "nowhere is not a folder" in err


def test_an_output_that_is_a_file_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, _, err = run("train", "--model", "m", "--data", "d", "--output", tmp_path / "file")
    assert code == 2
    assert "is a file; name a folder" in err


def test_what_nobody_foresaw_is_short_unless_a_traceback_is_wanted(run, model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the moon\nis full")

    monkeypatch.setattr("magic_pyramid.classifier.Classifier.predict", fail)
    code, _, err = run("predict", model, "a film")
    assert code == 1, err
    assert err.startswith("error: unexpected RuntimeError: the moon is full\n")
    assert "--traceback shows where" in err
    assert "Traceback" in run("predict", model, "a film", "--traceback")[2]


def test_a_table_reaches_a_file_in_any_code_page(run, model, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["predict", model, "a quiet film"]) == 0
    assert b"a quiet film" in written.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "a film", "--png", "pyramid.foo"),
        ("explain", "a film", "--attention", "attention"),
        ("bench", "--plot", "plot.foo", "--data", "nowhere"),
    ],
)
def test_a_picture_is_refused_by_its_name_before_any_work(run, arguments):
    code, out, err = run(arguments[0], "nowhere", *arguments[1:])
    assert (code, out) == (2, "")
    assert "name a file that ends in .png or .svg" in err


def test_json_lines_are_not_written_into_a_file_of_another_kind(run, model, tmp_path):
    code, _, err = run("predict", model, "a film", "--json", "--output", tmp_path / "answers.csv")
    assert code == 2
    assert "--json writes JSON lines; leave it out, or name an output of .jsonl" in err


def test_an_interruption_has_the_shells_exit_code(run, model, monkeypatch, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("magic_pyramid.classifier.Classifier.predict", interrupt)
    rows = numbered_rows(tmp_path / "in.jsonl", 3)
    code, _, err = run("predict", model, "--input", rows, "--output", tmp_path / "out.jsonl")
    assert code == 130
    assert "0 rows are in" in err
    assert err.endswith("interrupted\n")


def test_a_file_that_cannot_be_written_is_named(run, model, tmp_path):
    code, _, err = run("predict", model, "good", "--output", tmp_path / "no" / "out.jsonl")
    assert code == 2
    assert "out.jsonl lies in a folder that does not exist" in err
