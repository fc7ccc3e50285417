"""The same folder in the ecosystem's own words: Auto classes, pipelines, Trainer, the hub."""

from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import HfApi
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from magic_pyramid.certify.certificate import without_certificate
from magic_pyramid.checkpoint import config_json, load_model, save_model
from magic_pyramid.config import ModelConfig
from magic_pyramid.engine.interface import check_classifies, default_setting
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.exiting.losses import task_loss
from magic_pyramid.model import PyramidModel
from magic_pyramid.packing import pack

MODEL_TYPE = "magic_pyramid"


class MagicPyramidConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Our config inside Hugging Face's; ``model`` is the typed form of the ``magic_pyramid`` key."""

    model_type = MODEL_TYPE
    # The base class is a dataclass that takes any keyword; the shape checker of the tests would refuse them.
    __no_type_check__ = True

    @property
    def model(self) -> ModelConfig:
        """The model's own config.

        Raises:
            ConfigError: a field is unknown or impossible.
        """
        return ModelConfig.from_dict(self.magic_pyramid)


class MagicPyramidForSequenceClassification(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The packed model behind the padded signature that Trainer and pipelines call."""

    config_class = MagicPyramidConfig
    base_model_prefix = "pyramid"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = False

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__(config)
        self.pyramid = PyramidModel(config.model)
        self.info: dict[str, Any] = {}
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Answer a padded batch; in evaluation mode tokens are removed and texts leave early, as calibrated.

        In training mode every layer runs and the loss is that of the final head.
        """
        batch = pack(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        config = self.pyramid.config
        if self.training:
            logits = self.pyramid(batch, masking="hard").logits
        else:
            logits = TorchEngine(self.pyramid).answer(batch, setting=default_setting(config)).logits.clone()
        loss = None
        if labels is not None:
            loss = task_loss(logits, labels, problem_type=config.problem_type)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *_: Any, **kwargs: Any) -> Self:
        """Load our folder with our own checks; options that change weights or placement are not taken.

        Raises:
            CheckpointError: missing, damaged, foreign or newer; the file and field are named.
            ConfigError: the model answers questions.
        """
        loaded = load_model(pretrained_model_name_or_path)
        check_classifies(loaded.model.config, what=cls.__name__)
        config = MagicPyramidConfig(**config_json(loaded.model.config, info=loaded.info))
        config.name_or_path = str(pretrained_model_name_or_path)
        model = cls(config)
        model.pyramid = loaded.model
        model.info = loaded.info
        dtype = kwargs.get("dtype") or kwargs.get("torch_dtype")
        if isinstance(dtype, torch.dtype):
            torch.nn.Module.to(model, dtype=dtype)
        model.train(False)
        return model

    def save_pretrained(self, save_directory: Any, *_: Any, **__: Any) -> None:
        """Write our folder; tokenizer files that are there stay.

        The weights may have learned since they were loaded, so a certificate is left out.
        """
        info = without_certificate(self.info)
        save_model(self.pyramid, save_directory, encoder=None, info=info, readme=None)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """The packed model has initialised itself."""


def register() -> None:
    """Teach transformers' Auto classes our model type."""
    AutoConfig.register(MODEL_TYPE, MagicPyramidConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        MagicPyramidConfig, MagicPyramidForSequenceClassification, exist_ok=True
    )


def upload(folder: Path, repo_id: str, *, private: bool | None = None) -> str:
    """Upload a model folder to the Hugging Face hub and give its address there."""
    api = HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo_id, folder_path=folder))
