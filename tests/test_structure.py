"""What holds for every file: documented settings, short modules, light import, frozen public names."""

import ast
import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import magic_pyramid
from magic_pyramid import config
from magic_pyramid.config import Config, field_docs

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "magic_pyramid"
MODULES = sorted(SOURCE.rglob("*.py"))
MAX_LINES = 400

PUBLIC_NAMES = {
    "CALIBRATED",
    "PRESETS",
    "BackboneConfig",
    "CheckpointError",
    "Classifier",
    "ConfigError",
    "DriftMonitor",
    "Example",
    "ExitConfig",
    "InputError",
    "MagicPyramidError",
    "MissingExtraError",
    "ModelConfig",
    "OverloadedError",
    "Predictions",
    "Predictor",
    "PruneConfig",
    "QuestionAnswering",
    "Trace",
    "TrainConfig",
    "demo_data",
    "demo_model_path",
    "fit",
    "load_data",
}
OPTIONAL_LIBRARIES = ("matplotlib", "datasets", "pandas", "onnxruntime")

CONFIGS = [
    value
    for value in vars(config).values()
    if isinstance(value, type) and issubclass(value, Config) and dataclasses.is_dataclass(value)
]
FIELDS = [(cls, f.name) for cls in CONFIGS for f in dataclasses.fields(cls)]

MACHINE_PATH = re.compile(
    r"(?:^|[\s\"'`=(:])(?:/(?:home|Users|root|work|mnt|workspace)/|[A-Z]:\\Users)", re.MULTILINE
)
OPEN_NOTE = re.compile(r"\b(?:TODO|FIXME)\b(?!\(#\d+\))")


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project() -> dict[str, Any]:
    data: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return data


def tracked_texts() -> dict[str, str]:
    """Name and content of every text file that is, or is about to be, in the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listing.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and (content := path.read_bytes()) and b"\0" not in content:
            texts[name] = content.decode("utf-8", errors="replace")
    return texts


@pytest.mark.parametrize(("cls", "name"), FIELDS, ids=[f"{cls.__name__}.{name}" for cls, name in FIELDS])
def test_every_setting_has_its_description(cls, name):
    assert field_docs(cls).get(name, "").endswith("."), f"{cls.__name__}.{name} needs a sentence under it"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, f"{relative(path)} has no docstring"


@pytest.mark.parametrize("path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=relative)
def test_no_module_is_long(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{relative(path)} has {lines} lines; split it by concept"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_the_library_does_not_print(path):
    calls = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not calls, f"{relative(path)} prints on lines {calls}"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_an_open_note_names_its_issue(path):
    found = OPEN_NOTE.findall(path.read_text(encoding="utf-8"))
    assert not found, f"{relative(path)} has {found} without an issue number"


def test_no_file_names_a_path_of_one_machine():
    found = [
        f"{name}: {text[match.start() : match.end() + 30].strip()!r}"
        for name, text in tracked_texts().items()
        for match in MACHINE_PATH.finditer(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["see /" + "home/ada/x", "'/" + "work/data'", "a:\nC:\\" + "Users\\ada"])
def test_a_path_of_one_machine_is_recognised(text):
    assert MACHINE_PATH.search(text)


@pytest.mark.parametrize("text", ["https://example.org/home/x", "tests/work/x", "/usr/bin/env", "a/root/b"])
def test_other_paths_are_left_alone(text):
    assert not MACHINE_PATH.search(text)


def test_the_changelog_has_an_entry_for_the_version():
    version = project()["version"]
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version in headings


def test_the_package_and_the_project_state_the_same_version():
    assert magic_pyramid.__version__ == project()["version"]


def test_public_names_are_frozen():
    assert set(magic_pyramid.__all__) == PUBLIC_NAMES
    assert len(magic_pyramid.__all__) == len(PUBLIC_NAMES)


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_every_public_name_exists(name):
    assert hasattr(magic_pyramid, name)


def test_import_loads_no_optional_library():
    code = (
        "import sys, magic_pyramid\n"
        f"sys.exit(' '.join(name for name in {OPTIONAL_LIBRARIES!r} if name in sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HF_HUB_OFFLINE": "1"},
    )
    assert loaded.stderr.strip() == ""
