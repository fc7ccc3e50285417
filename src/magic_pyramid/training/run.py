"""Run all stages in order, and go on where an earlier run was interrupted."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from safetensors.torch import load_file

from magic_pyramid.config import STAGE_NAMES, TrainConfig
from magic_pyramid.data import LabelledData
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.labelled_rows import label_rows
from magic_pyramid.model import PyramidModel
from magic_pyramid.tokenization import EncodedTexts, TextEncoder
from magic_pyramid.training.batches import TrainRows
from magic_pyramid.training.budget import budget_of, check_budget, meet_beforehand, meet_budget
from magic_pyramid.training.new_heads import standardise_exit_heads
from magic_pyramid.training.objective import GROUPS, StageObjective, targets_of
from magic_pyramid.training.processes import Processes, uses_cpu
from magic_pyramid.training.record import OnEvent, StageReport, TrainEvent, TrainReport
from magic_pyramid.training.sharing import SharedStages, groups_read, key_of, learned_by, stage_facts
from magic_pyramid.training.stages import Stage, check_student, stages_of
from magic_pyramid.training.teacher import Teacher
from magic_pyramid.training.validation import Validation, ask_teacher
from magic_pyramid.training.workspace import Workspace, digest_of

CHECKPOINT_SECONDS = 120.0
"""Time between two checkpoints of a running stage."""


def train(
    *,
    model: PyramidModel,
    encoder: TextEncoder,
    data: LabelledData,
    output: Path,
    config: TrainConfig,
    resume: bool = False,
    on_event: OnEvent | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    device: str | None = None,
    shared: Path | None = None,
    has_new_exit_heads: bool = False,
) -> TrainReport:
    """Train a model, in place, through the stages that its config asks for.

    Saving the finished model is the caller's. Under ``torchrun`` every process calls this.

    Args:
        model: the encoder with its new heads.
        encoder: its tokenizer.
        data: labelled texts; without a `validation` split the last weights of each stage are kept.
        output: folder in which the work folder ``.training`` lives.
        config: how to train.
        resume: go on in that work folder; what is finished is not repeated.
        on_event: called as training goes, in the main process.
        checkpoint_seconds: time between two checkpoints.
        device: "cpu"; None, and any other name, for the best there is.
        shared: folder of stages that trainings have in common: a stage that another training has finished is
            taken over from there, and a new one is left there.
        has_new_exit_heads: the model's exit heads have learned nothing yet.

    Raises:
        ConfigError: the settings contradict each other, or the work folder holds another training.
        InputError: there are no training rows.
    """
    processes = Processes.join(use_cpu=uses_cpu(device))
    _check(config, data, processes)
    rows = label_rows(encoder, data.splits["train"], model.config)
    lengths = np.asarray(rows.encoded.lengths)
    check_budget(model.config, config, lengths)
    validation = _validation(data, encoder, model, processes)
    meet_beforehand(model, config, _lengths_to_come(rows.encoded, validation))
    stages = stages_of(model.config, config)
    check_student(config, stages)
    plan = _plan(model, config, data, rows.encoded)
    workspace = Workspace.open(output, plan=plan, resume=resume, processes=processes)
    run = _Run(
        model=model.to(processes.device),
        config=config,
        workspace=workspace,
        rows=TrainRows(rows.encoded, targets_of(rows.labels, model.config)),
        validation=validation,
        on_event=on_event or _ignore,
        checkpoint_seconds=checkpoint_seconds,
        shared=SharedStages(folder=shared) if shared else None,
        rows_key=key_of({"data": plan["data"], "tokens": plan["tokens"]}),
        has_new_exit_heads=has_new_exit_heads,
    )
    run.ask_given_teacher(stages)
    return TrainReport(stages=tuple(run.stage(stage) for stage in stages))


class _Run:
    """One call of ``train``: takes the model from stage to stage."""

    def __init__(
        self,
        *,
        model: PyramidModel,
        config: TrainConfig,
        workspace: Workspace,
        rows: TrainRows,
        validation: Validation | None,
        on_event: OnEvent,
        checkpoint_seconds: float,
        shared: SharedStages | None,
        rows_key: str,
        has_new_exit_heads: bool,
    ) -> None:
        self.model, self.config, self.workspace, self.rows = model, config, workspace, rows
        self.validation, self.on_event, self.checkpoint_seconds = validation, on_event, checkpoint_seconds
        self.shared, self.rows_key = shared, rows_key
        self.has_new_exit_heads = has_new_exit_heads

    def ask_given_teacher(self, stages: Sequence[Stage]) -> None:
        """A model that came fine-tuned answers before anything changes it."""
        if self.config.epochs_of("finetune") == 0 and any(stage.asks_teacher for stage in stages):
            self.rows.teacher = self._teacher()

    def stage(self, stage: Stage) -> StageReport:
        """Run a stage, or take over what an earlier run of it left."""
        report = self._stage(stage)
        self.has_new_exit_heads &= "exit_heads" not in stage.trains
        return report

    def _stage(self, stage: Stage) -> StageReport:
        report = self.workspace.finished(stage.name)
        if report is None and stage.asks_teacher and self.rows.teacher is None:
            self.rows.teacher = self._teacher()
        if stage.layers is not None:
            self.model.keep_layers(stage.layers)
        if report is not None:
            self.model.load_state_dict(self.workspace.weights(stage.name))
            self._skipped(stage)
            return report
        if self.has_new_exit_heads and stage.learns_exits_only:
            standardise_exit_heads(self.model, self.rows.encoded, masking=stage.masking)
        report = self._train_once(stage, self.shared) if self.shared else self._train(stage)
        self.workspace.finish(report, self.model.state_dict())
        return report

    def _train_once(self, stage: Stage, shared: SharedStages) -> StageReport:
        """Take a stage over from another training, or train it and leave it for others."""
        key, is_main = self._key(stage), self.workspace.processes.is_main
        with shared.held(key) if is_main else nullcontext():
            self.workspace.processes.wait()
            found = shared.find(key)
            if found is None:
                report = self._train(stage)
                if is_main:
                    shared.keep(key, report, learned_by(stage, self.model))
                return report
        report, learned = found
        self.model.load_state_dict(learned, strict=False)
        self._skipped(stage)
        pruner = self.model.pruner
        return replace(report, pruner=pruner.learned() if pruner else None)

    def _key(self, stage: Stage) -> str:
        """Name of everything that decides a stage from here on."""
        teacher = self.rows.teacher if stage.asks_teacher else None
        facts = {
            **stage_facts(stage, self.model.config, self.config),
            "rows": self.rows_key,
            "weights": {group: digest_of(*self.model.parameter_group(group)) for group in groups_read(stage)},
            "teacher": teacher and digest_of(*teacher.tensors().values()),
        }
        return key_of(facts)

    def _skipped(self, stage: Stage) -> None:
        if self.workspace.processes.is_main:
            self.on_event(TrainEvent(kind="stage_skipped", stage=stage.name, num_epochs=stage.epochs))

    def _train(self, stage: Stage) -> StageReport:
        # Importing the Trainer takes seconds, and only training needs it.
        from magic_pyramid.training.trainer import StageTrainer, Surroundings, rank

        folder = self.workspace.running(stage.name)
        around = Surroundings(
            folder=folder,
            processes=self.workspace.processes,
            on_event=self.on_event,
            validation=self.validation,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        lengths = np.asarray(self.rows.encoded.lengths)
        objective = StageObjective(
            self.model,
            stage,
            distill_temperature=self.config.distill_temperature,
            budget=budget_of(stage, self.model.config, self.config, lengths),
        )
        seed = self.config.seed * len(STAGE_NAMES) + STAGE_NAMES.index(stage.name)
        trainer = StageTrainer(objective, rows=self.rows, config=self.config, seed=seed, around=around)
        log = trainer.run()
        validation = [entry["validation"] for entry in log if "validation" in entry]
        kept = validation[-1] if validation else None
        if validation and stage.keeps == "best":
            kept = max(reversed(validation), key=rank)
            self.model.load_state_dict(load_file(folder / "best.safetensors"))
        has_met = objective.budget is not None and meet_budget(
            self.model, objective.budget, _lengths_to_come(self.rows.encoded, self.validation)
        )
        if has_met and kept is not None and self.validation is not None:
            kept = {**kept, **self.validation.measure(self.model, stage)}
        trainer.emit("stage_finished", validation=kept)
        for group in GROUPS:
            for parameter in self.model.parameter_group(group):
                parameter.requires_grad_(True)
        pruner = self.model.pruner
        return StageReport(
            name=stage.name,
            seconds=trainer.seconds,
            num_steps=trainer.num_steps,
            losses=tuple(entry for entry in log if "loss" in entry),
            validation=tuple(validation),
            kept=kept,
            pruner=pruner.learned() if pruner else None,
        )

    def _teacher(self) -> Teacher:
        """The fine-tuned model's answers on the train rows, computed once; it may have come fine-tuned."""
        cached = self.workspace.cached("teacher")
        if cached is not None:
            return Teacher(**cached)
        now = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        if self.config.epochs_of("finetune") > 0:
            self.model.load_state_dict(self.workspace.weights("finetune"))
        teacher = ask_teacher(
            self.model,
            self.rows.encoded,
            top_k=self.config.rank_top_k,
            processes=self.workspace.processes,
        )
        self.model.load_state_dict(now)
        self.workspace.cache("teacher", teacher.tensors())
        return teacher


def _check(config: TrainConfig, data: LabelledData, processes: Processes) -> None:
    if not data.splits.get("train"):
        raise InputError(f"{data.name} has no training rows; give a train split")
    if config.precision == "fp16" and processes.device.type == "cpu":
        raise ConfigError("train.precision is 'fp16', which needs a GPU; use 'bf16' or 'fp32'")


def _validation(
    data: LabelledData, encoder: TextEncoder, model: PyramidModel, processes: Processes
) -> Validation | None:
    split = data.splits.get("validation")
    if not split:
        return None
    rows = label_rows(encoder, split, model.config)
    return Validation(encoded=rows.encoded, labels=rows.labels, processes=processes)


def _lengths_to_come(train: EncodedTexts, validation: Validation | None) -> Int[np.ndarray, " rows"]:
    """Tokens of texts like those to come: held out, as train may be of another kind, such as phrases."""
    return np.asarray((train if validation is None else validation.encoded).lengths)


def _plan(
    model: PyramidModel, config: TrainConfig, data: LabelledData, encoded: EncodedTexts
) -> Mapping[str, Any]:
    """Everything that decides the result; resuming needs the same."""
    return {
        "model": model.config.to_dict(),
        "train": config.to_dict(),
        "data": {name: data.fingerprint(name) for name in ("train", "validation") if data.splits.get(name)},
        "tokens": digest_of(torch.tensor([token for ids in encoded.token_ids for token in ids])),
        "encoder weights": digest_of(*model.parameter_group("backbone")),
    }


def _ignore(event: TrainEvent) -> None:
    return None
