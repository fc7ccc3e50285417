"""What people hold: a model that predicts, is explained, measured, calibrated and saved."""

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch

from magic_pyramid.calibration import Calibration, calibrate
from magic_pyramid.certify.certificate import without_certificate
from magic_pyramid.checkpoint import carry_seen_rows, finish_save, load_model, save_model
from magic_pyramid.checkpoint import to_huggingface as write_huggingface
from magic_pyramid.config import ModelConfig
from magic_pyramid.data import Example
from magic_pyramid.demo import demo_model_path
from magic_pyramid.engine.exported import ExportedEngine, exported_for, open_exported
from magic_pyramid.engine.interface import (
    AsksAllHeads,
    Engine,
    Setting,
    compares_thresholds,
    threshold_pruning,
)
from magic_pyramid.engine.threads import prefer_threads
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import CheckpointError, ConfigError, InputError, nearest
from magic_pyramid.evaluation import compare
from magic_pyramid.exit_thresholds import ExitThreshold
from magic_pyramid.export import native_engine
from magic_pyramid.folder_info import read_info
from magic_pyramid.hub import upload
from magic_pyramid.labelled_rows import label_rows
from magic_pyramid.model import PyramidModel
from magic_pyramid.native.library import instruction_sets, is_built
from magic_pyramid.predictor import CALIBRATED, Calibrated, Predictor
from magic_pyramid.report.trace import Trace
from magic_pyramid.tokenization import Text, TextEncoder
from magic_pyramid.tracing import trace_text

EngineName = Literal["auto", "torch", "onnx", "native"]


class Classifier(Predictor):
    """A model, its tokenizer and its engine."""

    def __init__(
        self,
        model: PyramidModel | ExportedEngine,
        encoder: TextEncoder,
        *,
        info: dict[str, Any] | None = None,
        make_engine: Callable[[PyramidModel], Engine] = TorchEngine,
        folder: Path | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            model: the model; or the engine of an exported folder, which can predict and be evaluated, but has
                no model to explain, calibrate or save.
            encoder: the model's tokenizer.
            info: what the folder says about the model.
            make_engine: what runs the model; asked when texts are first answered.
            folder: where it was loaded from.
        """
        self._model = None if isinstance(model, ExportedEngine) else model.eval()
        self.encoder = encoder
        self.info = info or {}
        self._config = model.config
        self._engine: Engine | None = model if isinstance(model, ExportedEngine) else None
        self._make_engine = make_engine
        self._making = threading.Lock()
        self._folder = folder

    @classmethod
    def from_pretrained(
        cls, path_or_name: str | Path, *, device: str = "cpu", engine: EngineName = "auto"
    ) -> Self:
        """Load a folder, a hub name, or ``"demo"``; a plain Hugging Face checkpoint gives the dense model.

        Args:
            path_or_name: the model, or a folder that ``magic-pyramid export`` wrote.
            device: where PyTorch runs; the other engines run on the CPU.
            engine: "auto" takes the engine that an exported folder is made for; other models run natively, in
                fp32, on a CPU where the native engine is built and knows their way to prune, and otherwise in
                PyTorch.

        Raises:
            CheckpointError: missing, damaged, foreign or newer (the file and field are named), or not made
                for the engine.
            ConfigError: there is no such engine, or it does not run on the device, or not this way to prune.
            MissingExtraError: what runs the model is not installed.
        """
        if engine not in get_args(EngineName):
            raise ConfigError(f"engine is {engine!r}; {nearest(engine, get_args(EngineName))}")
        source = demo_model_path() if str(path_or_name) == "demo" else path_or_name
        if str(source).startswith("~"):
            source = Path(source).expanduser()
        finish_save(Path(source))
        made_for = exported_for(source)
        if made_for is not None or engine == "onnx":
            if engine == "torch" or (made_for is not None and engine not in ("auto", made_for)):
                raise CheckpointError(
                    f"{source} was exported for the engine {made_for!r}, and {engine!r} does not run it; "
                    "load the folder it came from"
                )
            exported = open_exported(source)
            return cls(exported, TextEncoder.from_export(source), info=read_info(Path(source)))
        if engine == "native" and device != "cpu":
            raise ConfigError(
                f"the native engine runs on the CPU, but device is {device!r}; use engine='torch'"
            )
        if engine == "native":
            instruction_sets()
        loaded = load_model(source)
        if engine == "native":
            threshold_pruning(loaded.model.config, engine="the native engine")
        config = loaded.model.config
        can_be_native = device == "cpu" and is_built() and config.span is None and compares_thresholds(config)
        is_native = engine == "native" or (engine == "auto" and can_be_native)
        return cls(
            loaded.model.to(device),
            TextEncoder.from_pretrained(loaded.folder),
            info=loaded.info,
            make_engine=native_engine if is_native else TorchEngine,
            folder=loaded.folder,
        )

    @property
    def engine(self) -> Engine:
        """What answers texts; the native engine keeps the weights as they are when it is first asked for."""
        # Threads that serve ask at once, and an engine has its own copy of the weights.
        with self._making:
            if self._engine is None:
                self._engine = self._make_engine(self.model)
            return self._engine

    def renew_engine(self) -> None:
        """Let the next call run the model's weights as they are by then."""
        with self._making:
            if self._model is not None:
                self._engine = None

    @property
    def all_heads_engine(self) -> AsksAllHeads:
        """The engine, where it can say what every head would answer.

        Raises:
            InputError: this is an export to ONNX.
        """
        if not isinstance(self.engine, AsksAllHeads):
            raise InputError("an export to ONNX cannot ask all its heads; use the folder it came from")
        return self.engine

    @property
    def model(self) -> PyramidModel:
        """The PyTorch model.

        Raises:
            InputError: this is an exported folder, which has none.
        """
        if self._model is None:
            raise InputError(
                "an exported folder can only predict and be evaluated; load the folder it came from"
            )
        return self._model

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self._config if self._model is None else self._model.config

    def explain(
        self,
        text: Text,
        *,
        exit_threshold: ExitThreshold | Calibrated | None = CALIBRATED,
        prune_scale: float | Calibrated = CALIBRATED,
        exit_layers: Sequence[int] | Calibrated | None = CALIBRATED,
        speed: str | None = None,
        with_attention: bool = False,
    ) -> Trace:
        """Follow one text through the model: which tokens fell where, and where it left."""
        setting = self.setting(
            exit_threshold=exit_threshold, prune_scale=prune_scale, exit_layers=exit_layers, speed=speed
        )
        encoded = self.encode([text])
        return trace_text(
            self.model,
            encoded,
            self.encoder.tokens(encoded.token_ids[0]),
            setting=setting,
            with_attention=with_attention,
        )

    def evaluate(
        self,
        examples: Sequence[Example],
        *,
        exit_threshold: ExitThreshold | Calibrated | None = CALIBRATED,
        prune_scale: float | Calibrated = CALIBRATED,
        exit_layers: Sequence[int] | Calibrated | None = CALIBRATED,
        speed: str | None = None,
        batch_size: int | None = 32,
        repeats: int = 5,
    ) -> dict[str, Any]:
        """Quality, FLOPs and wall-clock on labelled examples, against the same weights run densely.

        Raises:
            InputError: there are no examples, or some have no label.
        """
        setting = self.setting(
            exit_threshold=exit_threshold, prune_scale=prune_scale, exit_layers=exit_layers, speed=speed
        )
        rows = self.compare(examples, settings={"": setting}, batch_size=batch_size, repeats=repeats)
        return rows[""]

    def compare(
        self,
        examples: Sequence[Example],
        *,
        settings: Mapping[str, Setting],
        batch_size: int | None = 32,
        repeats: int = 5,
        say: Callable[[str], None] = lambda _: None,
    ) -> dict[str, dict[str, Any]]:
        """``evaluate`` for several settings at once, by name; they share the dense run and take turns.

        ``say`` is told what has been done, for people who wait.

        Raises:
            InputError: there are no examples, or some have no label.
        """
        rows = label_rows(self.encoder, examples, self.config)
        return compare(
            self.engine,
            self.config,
            rows.encoded,
            rows.labels,
            settings=settings,
            batch_size=batch_size,
            repeats=repeats,
            base_layers=(self.info.get("provenance") or {}).get("base_layers"),
            say=say,
        )

    def calibrate(
        self, examples: Sequence[Example], *, max_drop: float, target_speedup: float | None = None
    ) -> Calibration:
        """Choose prune scale and exit threshold on held-out examples and make them the defaults.

        With ``target_speedup`` it also finds what that speed-up would cost, under ``at_target``.

        Raises:
            InputError: there are no examples, or some have no label, or this is an exported folder.
        """
        model, rows = self.model, label_rows(self.encoder, examples, self.config)
        found = calibrate(
            self.all_heads_engine, self.config, rows.encoded, rows.labels,
            max_drop=max_drop, target_speedup=target_speedup,
        )  # fmt: skip
        exits, prune = self.config.exit, self.config.prune
        model.configure(
            self.config.replace(
                exit=exits and exits.replace(threshold=found.exit_threshold, tested_layers=None),
                prune=prune and prune.replace(scale=found.prune_scale),
            )
        )
        self.info.update(calibration=found.to_dict(), tuning={})
        return found

    def save_pretrained(
        self, folder: str | Path, *, readme: str | None = None, storage: str = "fp32"
    ) -> None:
        """Write the model folder, all of it or nothing.

        Args:
            folder: made if it does not exist; other files in it stay.
            readme: the model card; None leaves the one that is there.
            storage: "fp32", "fp16" or "int8"; it is fp32 again when loaded. Rounded weights answer a little
                otherwise, so a certificate is left out.
        """
        save_model(
            self.model,
            folder,
            encoder=self.encoder,
            info=self.info if storage == "fp32" else without_certificate(self.info),
            readme=readme,
            storage=storage,  # type: ignore[arg-type]
        )
        self.carry_seen_rows(folder)

    def carry_seen_rows(self, folder: str | Path) -> None:
        """Take along which rows trained the model, where its folder says so: no promise may rest on them."""
        carry_seen_rows(self._folder, Path(folder))

    def to_huggingface(self, folder: str | Path) -> None:
        """Write the dense model as an ordinary checkpoint of its family, without pruner and exits."""
        write_huggingface(self.model, folder, encoder=self.encoder)

    def push_to_hub(self, repo_id: str, *, private: bool | None = None) -> str:
        """Upload the model folder to the Hugging Face hub and give its address."""
        with tempfile.TemporaryDirectory() as name:
            self.save_pretrained(name)
            return upload(Path(name), repo_id, private=private)


def use_threads(count: int) -> None:
    """Use this many CPU threads in the whole process.

    Raises:
        InputError: not a positive number.
    """
    if count < 1:
        raise InputError(f"threads is {count}; give at least 1")
    torch.set_num_threads(count)
    prefer_threads(count)
