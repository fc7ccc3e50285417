"""One of several training processes: trains the toy task and writes what the main process saw."""

import json
import os
import sys
from pathlib import Path

from safetensors.torch import save_file

from magic_pyramid.config import TrainConfig
from magic_pyramid.training import TrainEvent
from training_toy import STILL, toy_model, train_toy


def work(output: Path, config: TrainConfig, *, resume: bool = False) -> None:
    model = toy_model(STILL)
    events: list[TrainEvent] = []
    report = train_toy(
        model, output, config=config, on_event=events.append, checkpoint_seconds=0.0, resume=resume
    )
    if os.environ.get("RANK", "0") == "0":
        told = [{"kind": event.kind, "kept": event.kept_tokens} for event in events]
        (output / "report.json").write_text(json.dumps({"report": report.to_dict(), "events": told}))
        save_file(dict(model.state_dict()), output / "result.safetensors")
    else:
        assert not events


if __name__ == "__main__":
    work(
        Path(sys.argv[1]),
        TrainConfig.from_dict(json.loads(sys.argv[2])),
        resume="--resume" in sys.argv,
    )
