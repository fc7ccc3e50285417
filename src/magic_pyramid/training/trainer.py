"""The loop: ``transformers.Trainer`` with our batches, losses, parameter groups and checkpoints.

Accelerate, several processes, mixed precision and gradient accumulation come with it.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging

from magic_pyramid.config import TrainConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.training.batches import TokenBudgetSampler, TrainBatch, TrainRows, loader
from magic_pyramid.training.objective import StageObjective, optimizer_groups
from magic_pyramid.training.processes import Processes
from magic_pyramid.training.projection import projected_gflops
from magic_pyramid.training.record import OnEvent, TrainEvent
from magic_pyramid.training.stages import Stage, learning_rates
from magic_pyramid.training.validation import Validation
from magic_pyramid.training.workspace import (
    COMPLETE,
    drop_checkpoints_except,
    last_checkpoint,
    read_json,
    save_tensors,
    write_json,
)

LOG_POINTS = 200
"""About this many loss values are kept of a stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a stage needs around it: where it writes, who watches, who else trains."""

    folder: Path
    """The running stage's folder."""
    processes: Processes
    on_event: OnEvent
    validation: Validation | None
    """None: nothing is held out, and the last weights are kept."""
    checkpoint_seconds: float


class StageTrainer(Trainer):
    """Trains one stage."""

    def __init__(
        self,
        objective: StageObjective,
        *,
        rows: TrainRows,
        config: TrainConfig,
        seed: int,
        around: Surroundings,
    ) -> None:
        self.objective: StageObjective = objective
        self.around: Surroundings = around
        self.train_config: TrainConfig = config
        self.stage: Stage = objective.stage
        self.rows: TrainRows = rows
        self.last_event: dict[str, Any] = {}
        self.sampler = TokenBudgetSampler(
            rows.encoded.lengths,
            tokens_per_batch=config.tokens_per_batch,
            max_sequences_per_batch=config.max_sequences_per_batch,
            epochs=self.stage.epochs,
            seed=seed,
            rank=around.processes.rank,
            world_size=around.processes.world_size,
        )
        accumulation = config.gradient_accumulation
        self.num_steps = -(-len(self.sampler) // accumulation)
        self.epoch_end_steps = [-(-end // accumulation) for end in self.sampler.epoch_ends]
        self._verbosity = logging.get_verbosity()
        super().__init__(
            model=objective,
            args=_arguments(around, config, seed=seed, num_steps=self.num_steps),
            train_dataset=rows,
            callbacks=[_Watch(self)],
        )
        self.remove_callback(PrinterCallback)
        # Our loss is a mean over all sequences of a step, however many batches and processes it took.
        self.model_accepts_loss_kwargs = True
        num_layers = objective.model.config.backbone.num_hidden_layers
        self._kept = torch.zeros(num_layers + 1, device=self.args.device)
        self._flops = torch.zeros(2, device=self.args.device)
        self._num_sequences = 0
        self._thresholds = objective.model.parameter_group("thresholds")
        self._others = [
            parameter
            for group in self.stage.trains
            if group != "thresholds"
            for parameter in objective.model.parameter_group(group)
        ]
        self.seconds_before = 0.0

    def run(self) -> list[dict[str, Any]]:
        """Train to the end of the stage, from its last checkpoint where there is one; gives the log."""
        checkpoint = last_checkpoint(self.around.folder)
        if checkpoint is not None:
            self.seconds_before = float(read_json(checkpoint / COMPLETE)["seconds"])
        self.started_s = self.saved_s = time.perf_counter()
        try:
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            logging.set_verbosity(self._verbosity)
        return list(self._history)

    @property
    def _history(self) -> list[dict[str, Any]]:
        # Part of the Trainer's state, so that it outlives an interruption.
        return self.state.log_history

    @property
    def seconds(self) -> float:
        """Time spent on the stage so far, earlier runs included."""
        return self.seconds_before + time.perf_counter() - self.started_s

    # Batches and loss

    def get_train_dataloader(self) -> DataLoader[TrainBatch]:
        """Our batches, already split over the processes."""
        return loader(self.rows, self.sampler)

    def get_batch_samples(
        self, epoch_iterator: Iterator[TrainBatch], num_batches: int, device: torch.device
    ) -> tuple[list[TrainBatch], int]:
        """The batches of one step, and how many sequences they hold over all processes."""
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        return batches, sum(batch.num_global for batch in batches)

    def _prepare_inputs(self, inputs: TrainBatch) -> TrainBatch:  # type: ignore[override]
        return inputs.to(self.args.device)

    def compute_loss(  # type: ignore[override]
        self,
        model: nn.Module,
        inputs: TrainBatch,
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Tensor:
        """This process's part of the step's mean loss; the average over processes is the whole."""
        self.objective.progress = self.state.global_step / self.num_steps
        output: dict[str, Tensor] = model(inputs)
        self._kept[0] += inputs.batch.num_tokens if inputs.num_local else 0
        self._kept[1:] += output["kept_tokens"]
        self._flops += output["flops"]
        self._num_sequences += inputs.num_local
        share = inputs.num_local / (num_items_in_batch or inputs.num_global)
        return output["loss"] * share * self.around.processes.world_size

    def floating_point_ops(self, inputs: object) -> int:
        """Not counted here; ``magic_pyramid.cost`` is exact."""
        return 0

    # Optimiser

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a group for each kind of parameter."""
        groups = optimizer_groups(
            self.objective,
            learning_rates=learning_rates(self.stage, self.objective.model.config, self.train_config),
            weight_decay=self.train_config.weight_decay,
            learning_rate_budget=self.train_config.learning_rate_budget,
        )
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR:
        """Rise over the stage's warm-up, then fall linearly to 0; a budget's multipliers never slow down."""
        warmup = round(self.stage.warmup * num_training_steps)

        def share(step: int) -> float:
            rising = step / max(1, warmup)
            falling = (num_training_steps - step) / max(1, num_training_steps - warmup)
            return rising if step < warmup else max(0.0, falling)

        assert self.optimizer is not None
        shares: list[Callable[[int], float]] = [
            _always if group["maximize"] else share for group in self.optimizer.param_groups
        ]
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, shares)
        return self.lr_scheduler

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        # One unusual threshold gradient, up to 1 / (4 * temperature), must not shrink the whole step.
        self.accelerator.unscale_gradients()
        limit = self.args.max_grad_norm
        nn.utils.clip_grad_norm_(self._thresholds, limit)
        return nn.utils.clip_grad_norm_(self._others, limit)

    # Logs and validation

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep the loss, show the progress, and stop where the loss is no number any more."""
        if "loss" not in logs:
            return
        if logs["loss"] != logs["loss"]:
            raise ConfigError(
                f"the loss of {self.stage.name} is not a number at step {self.state.global_step}; "
                "lower train.learning_rate, or use train.precision fp32"
            )
        kept = self._kept_tokens()
        self.last_event = {
            "loss": logs["loss"],
            "kept_tokens": tuple(kept[1:]),
            "gflops": projected_gflops(
                self.objective.model.config,
                np.asarray([kept]),
                prune_scale=None if self.stage.masking == "hard" else 0.0,
            ),
            "speedup": self._speedup(),
        }
        self._history.append(
            {
                "step": self.state.global_step,
                "epoch": self.epoch,
                "loss": logs["loss"],
                "learning_rate": logs["learning_rate"],
            }
        )

    @property
    def epoch(self) -> float:
        """Epochs done, in passes over the data."""
        done = self.state.global_step * self.train_config.gradient_accumulation
        begins = [0, *self.sampler.epoch_ends]
        for index, (begin, end) in enumerate(pairwise(begins)):
            if done < end:
                return index + (done - begin) / (end - begin) * min(1.0, self.stage.epochs - index)
        return self.stage.epochs

    def emit(self, kind: Any, **values: Any) -> None:
        """Tell the watcher, from the main process only."""
        if self.around.processes.is_main:
            self.around.on_event(
                TrainEvent(
                    kind=kind,
                    stage=self.stage.name,
                    step=self.state.global_step,
                    num_steps=self.num_steps,
                    epoch=self.epoch,
                    num_epochs=self.stage.epochs,
                    **values,
                )
            )

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, Any]:
        """Measure on the validation split and keep the weights if they are the best so far."""
        if self.around.validation is None:
            return {}
        measured = self.around.validation.measure(self.objective.model, self.stage)
        entry = {"step": self.state.global_step, "epoch": self.epoch, **measured}
        earlier = [rank(log["validation"]) for log in self._history if "validation" in log]
        if rank(entry) >= max(earlier, default=rank(entry)) and self.stage.keeps == "best":
            if self.around.processes.is_main:
                save_tensors(self.around.folder / "best.safetensors", self.objective.model.state_dict())
            self.around.processes.wait()
        self._history.append({"step": self.state.global_step, "validation": entry})
        self.emit("validated", validation=entry)
        return {}

    def _kept_tokens(self) -> list[float]:
        counts = torch.cat([self._kept, self._kept.new_tensor([float(self._num_sequences)])])
        counts = self.around.processes.sum(counts)
        self._kept = torch.zeros_like(self._kept)
        self._num_sequences = 0
        return (counts[:-1] / counts[-1]).tolist()

    def _speedup(self) -> float | None:
        """Dense FLOPs over expected FLOPs since the last look; None where the stage has no budget."""
        flops, dense_flops = self.around.processes.sum(self._flops).tolist()
        self._flops = torch.zeros_like(self._flops)
        return dense_flops / flops if flops else None

    # Checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.around.processes.is_main:
            return
        folder = Path(output_dir) if output_dir else self.around.folder
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(folder / "model.safetensors", self.objective.state_dict())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.objective.load_state_dict(load_file(Path(resume_from_checkpoint) / "model.safetensors"))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.around.processes.wait()
        if self.around.processes.is_main:
            checkpoint = self.around.folder / f"checkpoint-{self.state.global_step}"
            write_json(checkpoint / COMPLETE, {"seconds": self.seconds})
            drop_checkpoints_except(self.around.folder, checkpoint)
        self.saved_s = time.perf_counter()


class _Watch(TrainerCallback):
    """Decides after each step what is due: showing, measuring, saving."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.emit("stage_started")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        pruner = trainer.objective.model.pruner
        if pruner is not None and "thresholds" in trainer.stage.trains:
            pruner.settle()
        ends_epoch = state.global_step in trainer.epoch_end_steps
        control.should_evaluate = ends_epoch
        due = time.perf_counter() - trainer.saved_s >= trainer.around.checkpoint_seconds
        is_over = state.global_step >= trainer.num_steps
        control.should_save = not is_over and (ends_epoch or trainer.around.processes.agree(due))
        trainer.emit("step", **trainer.last_event)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The Trainer looks at these again after the last step, where all is done already.
        control.should_evaluate = control.should_save = False


def _always(step: int) -> float:
    return 1.0


def rank(validation: dict[str, Any]) -> tuple[float, float, float]:
    """What the best weights are chosen by: a kept budget, then the score, and at equal score the loss."""
    return -validation["budget_miss"], validation["score"], -validation["loss"]


def _arguments(around: Surroundings, config: TrainConfig, *, seed: int, num_steps: int) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(around.folder),
        max_steps=num_steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.gradient_accumulation,
        max_grad_norm=config.max_grad_norm,
        logging_strategy="steps",
        logging_steps=max(1, num_steps // LOG_POINTS),
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
        seed=seed,
        use_cpu=around.processes.device.type == "cpu",
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
    )
    # One process drives one device, torchrun several: DataParallel cannot split a packed batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
