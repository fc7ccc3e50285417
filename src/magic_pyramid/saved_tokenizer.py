"""The tokenizer of a folder, read by `tokenizers` alone: no transformers, no PyTorch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magic_pyramid.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILE, CONFIG_FILE = "tokenizer.json", "tokenizer_config.json"


class SavedTokenizer:
    """What ``TextEncoder`` needs of a fast tokenizer, by the names that transformers has for it."""

    def __init__(self, backend: "Tokenizer", config: dict[str, Any]) -> None:
        """Wrap a tokenizer and the content of its ``tokenizer_config.json``."""
        self.backend_tokenizer = backend
        self.model_input_names: list[str] = config["model_input_names"]
        self.truncation_side: str = config["truncation_side"]
        self._config = config

    @classmethod
    def from_folder(cls, folder: Path) -> "SavedTokenizer":
        """Read the files that ``complete_config`` has completed.

        Raises:
            CheckpointError: one is missing, cannot be read, or was not completed.
        """
        from tokenizers import Tokenizer

        try:
            config = json.loads((folder / CONFIG_FILE).read_bytes())
            return cls(Tokenizer.from_str((folder / TOKENIZER_FILE).read_text("utf-8")), config)
        except KeyError as error:
            raise CheckpointError(f"{folder / CONFIG_FILE} has no {error}; export the model again") from None
        except Exception as error:  # tokenizers raises bare exceptions
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"the tokenizer of {folder} cannot be read: {reason}") from error

    @property
    def pad_token_id(self) -> int | None:
        """Token id of padding."""
        return self._id_of("pad_token")

    @property
    def sep_token_id(self) -> int | None:
        """Token id of the separator."""
        return self._id_of("sep_token")

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str]:
        """The piece behind each id."""
        return [str(self.backend_tokenizer.id_to_token(token)) for token in token_ids]

    def save_pretrained(self, folder: str) -> None:
        """Write the two files again."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.backend_tokenizer.save(str(Path(folder) / TOKENIZER_FILE))
        _write_config(Path(folder), self._config)

    def _id_of(self, name: str) -> int | None:
        token = self._config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        found = None if content is None else self.backend_tokenizer.token_to_id(content)
        return None if found is None else int(found)


def complete_config(folder: Path, *, model_input_names: Sequence[str], truncation_side: str) -> None:
    """Write down what transformers knows from a tokenizer's class alone."""
    config = json.loads((folder / CONFIG_FILE).read_bytes())
    known = {"model_input_names": list(model_input_names), "truncation_side": truncation_side}
    _write_config(folder, config | known)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
