"""Texts in, labels out, from an exported folder: needs no PyTorch and no transformers."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from magic_pyramid.certify import stored_speed
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.exported import ExportedEngine, open_exported
from magic_pyramid.engine.interface import (
    Engine,
    Setting,
    check_classifies,
    default_setting,
    layers_tested,
)
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.exit_thresholds import ExitThreshold
from magic_pyramid.folder_info import read_info
from magic_pyramid.predictions import Predictions, joined_predictions, predictions_of
from magic_pyramid.tokenization import EncodedTexts, Text, TextEncoder


class Calibrated:
    """Marks a knob that is left where calibration put it."""

    def __repr__(self) -> str:
        return "CALIBRATED"


CALIBRATED: Final = Calibrated()
"""Default of every speed knob: the setting stored in the model."""


class Predictor:
    """An engine and its tokenizer."""

    def __init__(
        self, engine: ExportedEngine, encoder: TextEncoder, *, info: dict[str, Any] | None = None
    ) -> None:
        """Put the parts together; ``info`` is what the folder says about the model."""
        self._engine: Engine | None = engine
        self._config = engine.config
        self.encoder = encoder
        self.info = info or {}

    @classmethod
    def from_pretrained(cls, folder: str | Path, /) -> Self:
        """Load a folder that ``magic-pyramid export`` wrote.

        Raises:
            CheckpointError: it is none, or a file is missing, damaged, newer or not what was exported.
            MissingExtraError: what runs the model is not installed.
        """
        folder = Path(folder).expanduser()
        engine = open_exported(folder)
        return cls(engine, TextEncoder.from_export(folder), info=read_info(folder))

    @property
    def engine(self) -> Engine:
        """What answers texts."""
        assert self._engine is not None
        return self._engine

    @property
    def config(self) -> ModelConfig:
        """What the model is."""
        return self._config

    def setting(
        self,
        *,
        exit_threshold: ExitThreshold | Calibrated | None = CALIBRATED,
        prune_scale: float | Calibrated = CALIBRATED,
        exit_layers: Sequence[int] | Calibrated | None = CALIBRATED,
        speed: str | None = None,
    ) -> Setting:
        """The speed knob of a call: as given, or as stored in the model.

        Args:
            exit_threshold: in [0, 1], larger leaves earlier; a tuple has one for each exit head; None runs
                every layer.
            prune_scale: multiplier of the token thresholds, >= 0; larger removes more, 0 removes nothing.
            exit_layers: 0-based layers whose exit head is asked; None asks every head. The stored choice
                was made for the stored threshold: with another one, every head is asked unless this is given.
            speed: "certified", "balanced" or "fastest", as ``magic-pyramid calibrate`` stored them; alone.

        Raises:
            ConfigError: a knob is out of range, whether the model has that part or not; a layer has no head;
                there is no such speed, or another knob beside it.
        """
        if speed is not None:
            if not all(isinstance(knob, Calibrated) for knob in (exit_threshold, prune_scale, exit_layers)):
                raise ConfigError(
                    f"speed is {speed!r}, and exit_threshold, prune_scale or exit_layers was given as well; "
                    "a speed sets all of them, so give one or the other"
                )
            return stored_speed(self.info, speed).setting(self.config)
        stored = default_setting(self.config)
        threshold = stored.exit_threshold if isinstance(exit_threshold, Calibrated) else exit_threshold
        scale = stored.prune_scale if isinstance(prune_scale, Calibrated) else prune_scale
        if isinstance(exit_layers, Calibrated):
            layers = stored.exit_layers if threshold == stored.exit_threshold else None
        else:
            layers = None if exit_layers is None else tuple(exit_layers)
        given = Setting(prune_scale=scale, exit_threshold=threshold, exit_layers=layers)
        layers_tested(self.config, given)
        return Setting(
            prune_scale=given.prune_scale if self.config.prune else 0.0,
            exit_threshold=given.exit_threshold if self.config.exit else None,
            exit_layers=given.exit_layers,
        )

    def predict(
        self,
        texts: Iterable[Text],
        *,
        exit_threshold: ExitThreshold | Calibrated | None = CALIBRATED,
        prune_scale: float | Calibrated = CALIBRATED,
        exit_layers: Sequence[int] | Calibrated | None = CALIBRATED,
        speed: str | Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> Predictions:
        """Answer every text; an answer does not depend on the other texts.

        Args:
            texts: texts, or pairs of texts.
            exit_threshold: see ``setting``.
            prune_scale: see ``setting``.
            exit_layers: see ``setting``.
            speed: see ``setting``; a list has one for each text, None for the stored setting.
            batch_size: texts per batch; None fills batches by tokens.

        Raises:
            InputError: something is not a text, or holds no token.
            ConfigError: a knob is out of range.
        """
        if isinstance(texts, str):
            raise InputError("predict got one string; it wants a list of texts: predict([text])")
        encoded = self.encode(list(texts))
        speeds = [speed] * len(encoded) if speed is None or isinstance(speed, str) else list(speed)
        if len(speeds) != len(encoded):
            raise InputError(f"there are {len(speeds)} speeds for {len(encoded)} texts; give one each")
        parts: list[tuple[list[int], Predictions]] = []
        for name in dict.fromkeys(speeds or [None]):
            setting = self.setting(
                exit_threshold=exit_threshold, prune_scale=prune_scale, exit_layers=exit_layers, speed=name
            )
            rows = [row for row, own in enumerate(speeds) if own == name]
            output = self.engine.run(encoded.select(rows), setting=setting, batch_size=batch_size)
            parts.append((rows, predictions_of(self.config, output, setting)))
        return joined_predictions(parts)

    def encode(self, texts: list[Text]) -> EncodedTexts:
        """Token ids, as the engine takes them.

        Raises:
            InputError: something is not a text, or holds no token.
            ConfigError: this model answers questions.
        """
        check_classifies(self.config, what=type(self).__name__)
        return self.encoder.encode(texts, max_length=self.config.max_length)
