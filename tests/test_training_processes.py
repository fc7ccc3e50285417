"""Two processes learn what one learns: same losses, same kept tokens, same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from magic_pyramid.training.processes import Processes, uses_cpu
from training_toy import FAST
from training_worker import work

ROOT = Path(__file__).parents[1]
# 48 rows in batches of 5 leave single sequences, which only one of two processes can take.
CONFIG = FAST.replace(max_sequences_per_batch=5, gradient_accumulation=2)


def launch(output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return subprocess.run(
        [*command, ROOT / "tests" / "training_worker.py", output, json.dumps(CONFIG.to_dict()), *options],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    work(outputs[0], CONFIG)
    finished = launch(outputs[1])
    assert finished.returncode == 0, finished.stderr[-3000:]
    return outputs


def told(output: Path) -> dict:
    return json.loads((output / "report.json").read_text())


def test_two_processes_end_with_the_weights_of_one(both):
    # Adam turns rounding of tiny gradients into steps of the learning rate's size; 7 to 14 steps a stage.
    one, two = (load_file(output / "result.safetensors") for output in both)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_two_processes_see_the_losses_and_kept_tokens_of_one(both):
    one, two = (told(output)["report"]["stages"] for output in both)
    for alone, together in zip(one, two, strict=True):
        losses = [[entry["loss"] for entry in stage["losses"]] for stage in (alone, together)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-6)
        assert together["kept"]["kept_tokens"] == pytest.approx(alone["kept"]["kept_tokens"])
        assert together["kept"]["quality"] == alone["kept"]["quality"]


def test_the_main_process_shows_the_tokens_of_all(both):
    one, two = ([event["kept"] for event in told(output)["events"] if event["kept"]] for output in both)
    assert len(one) == len(two)
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-5)


@pytest.mark.slow
def test_a_finished_training_is_taken_over_by_both(both):
    finished = launch(both[1], "--resume")
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert {event["kind"] for event in told(both[1])["events"]} == {"stage_skipped"}


def test_one_process_agrees_with_itself():
    alone = Processes.join(use_cpu=True)
    assert (alone.rank, alone.world_size, alone.is_main) == (0, 1, True)
    assert alone.agree(True)
    assert not alone.agree(False)


def test_a_named_cpu_is_used():
    assert uses_cpu("cpu")
    assert not uses_cpu("cuda")
