"""The README keeps its word: its Python runs and prints what it says, its commands and files exist."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from magic_pyramid import demo_model_path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
packaged = pytest.mark.skipif(not demo_model_path().is_dir(), reason="needs the packaged demo model")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@packaged
def test_the_python_blocks_print_what_the_readme_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code, shown in re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", README, flags=re.DOTALL):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), {})
        assert printed.getvalue().strip() == shown.strip()


def test_every_python_block_is_followed_by_its_output():
    assert len(blocks("python")) == len(re.findall(r"```python\n.*?```\n+```text\n", README, flags=re.DOTALL))


def test_every_command_is_one_that_exists():
    from magic_pyramid.cli.app import build

    verbs = set(build().commands)
    used = re.findall(r"^magic-pyramid ([\w-]+)", "\n".join(blocks("bash")), flags=re.MULTILINE)
    assert used
    assert set(used) <= verbs


def test_every_linked_file_exists():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
