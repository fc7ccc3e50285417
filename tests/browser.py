"""onnxruntime-web under Node, where both are installed; nothing is fetched."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from magic_pyramid.engine.graph_interface import GRAPH_FILE, NEVER_LEAVE, GraphInterface, inputs_of
from magic_pyramid.engine.interface import EngineOutput, Setting
from magic_pyramid.tokenization import EncodedTexts

SCRIPT = Path(__file__).parent / "node" / "answer.cjs"
MODULES = "MAGIC_PYRAMID_NODE_MODULES"
"""Environment variable: the ``node_modules`` with onnxruntime-web, if Node does not find it."""


def run_in_browser(folder: Path, encoded: EncodedTexts, *, setting: Setting) -> EngineOutput:
    """Answer every input in WebAssembly with a model exported as one graph."""
    threshold = NEVER_LEAVE if setting.exit_threshold is None else setting.exit_threshold
    knobs = {"prune_scale": setting.prune_scale, "exit_threshold": threshold}
    names = [value.name for value in inputs_of(GraphInterface.read(folder).config) if not value.is_optional]
    inputs = []
    for ids, types in zip(encoded.token_ids, encoded.token_type_ids, strict=True):
        values = {"token_ids": ids, "token_type_ids": types, **knobs}
        inputs.append({name: values[name] for name in names})
    task = json.dumps({"graph": str(folder / GRAPH_FILE), "inputs": inputs})
    done = _node(str(SCRIPT), stdin=task)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return EngineOutput(
        logits=np.array([answer["logits"] for answer in answers], np.float32),
        exit_layer=np.array([answer["exit_layer"][0] for answer in answers], np.int64),
        num_tokens=np.array([answer["num_tokens"] for answer in answers], np.int64),
    )


@cache
def missing() -> str:
    """Why nothing can run, or nothing."""
    if shutil.which("node") is None:
        return "node is not installed"
    if _node("-e", "require.resolve('onnxruntime-web')").returncode:
        return f"onnxruntime-web is not found: install it and let {MODULES} name its node_modules"
    return ""


def require_browser() -> None:
    """Skip the test where Node or onnxruntime-web is missing."""
    if missing():
        pytest.skip(missing())


def _node(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ)
    if MODULES in environment:
        environment["NODE_PATH"] = environment[MODULES]
    return subprocess.run(
        ["node", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=SCRIPT.parent,
    )
