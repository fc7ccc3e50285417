"""Texts to token ids: the checkpoint's own fast tokenizer, many texts at once, without padding."""

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np

from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.saved_tokenizer import SavedTokenizer, complete_config
from magic_pyramid.spans import Window

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerFast

Text = str | tuple[str, str]
"""One input of the classifier: a text, or a pair of texts."""

_CHUNK = 2048
_MOST_COPIES = 4
_MOST_NAMED = 20
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True, slots=True)
class _Cut:
    """How texts are cut that are too long."""

    max_length: int
    strategy: Literal["longest_first", "only_second"] = "longest_first"
    stride: int = 0
    """Tokens that the parts cut off share with what comes before."""
    side: str = "right"


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of many texts, ragged: every list is as long as its text."""

    token_ids: list[list[int]]
    """Vocabulary ids, special tokens included."""
    token_type_ids: list[list[int]]
    """Segment of each token: 0, or 1 in the second text of a pair where the tokenizer tells them apart."""

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.token_ids]

    def select(self, indices: Iterable[int]) -> "EncodedTexts":
        """The texts at these places, in this order."""
        rows = list(indices)
        return EncodedTexts([self.token_ids[row] for row in rows], [self.token_type_ids[row] for row in rows])

    def over_lengths(self, count: int) -> "EncodedTexts":
        """At most so many of the texts, at even distances over the lengths, shortest first."""
        return self.select(places_over_lengths(self.lengths, count))


def places_over_lengths(lengths: Sequence[int], count: int) -> list[int]:
    """At most so many places, at even distances over the sorted lengths."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    return [int(place) for place in order[evenly_spaced(len(order), count)]]


def evenly_spaced(size: int, count: int) -> list[int]:
    """At most ``count`` places of ``size``, at even distances, the first and the last among them."""
    places: list[int] = np.linspace(0, size - 1, min(count, size)).round().astype(int).tolist()
    return places


class TextEncoder:
    """A Hugging Face fast tokenizer, used the same way from any number of threads."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast | SavedTokenizer") -> None:
        """Wrap a fast tokenizer; it is not changed."""
        self._tokenizer = tokenizer
        self._has_token_types = "token_type_ids" in tokenizer.model_input_names
        self._backends: dict[_Cut, Tokenizer] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path) -> Self:
        """Read the tokenizer of a model folder or of a model on the hub.

        Raises:
            CheckpointError: there is no tokenizer, it cannot be read, or it has no fast form.
        """
        folder = Path(path_or_name)
        if folder.is_dir():
            _check_files(folder)
        elif folder.is_file() or folder.is_absolute() or len(folder.parts) > 2 or folder.parts[:1] == ("..",):
            raise CheckpointError(f"{folder} is not a folder; give a model folder or a model name on the hub")
        return cls(_load(str(path_or_name)))

    @classmethod
    def from_export(cls, folder: str | Path) -> Self:
        """Read the tokenizer of a folder that ``save_pretrained`` wrote; needs no transformers.

        Raises:
            CheckpointError: there is no tokenizer, or it cannot be read.
        """
        _check_files(Path(folder))
        return cls(SavedTokenizer.from_folder(Path(folder)))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer files into a folder."""
        self._tokenizer.save_pretrained(str(folder))
        complete_config(
            Path(folder),
            model_input_names=self._tokenizer.model_input_names,
            truncation_side=self._tokenizer.truncation_side,
        )

    @property
    def pad_token_id(self) -> int:
        """Token id of padding; 0 where the tokenizer has none."""
        return _id_or(self._tokenizer.pad_token_id, 0)

    @property
    def sep_token_id(self) -> int | None:
        """Token id of the separator; None where the tokenizer has none."""
        return cast("int | None", self._tokenizer.sep_token_id)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, added tokens included."""
        return len(self._tokenizer)

    def tokens(self, token_ids: Sequence[int]) -> list[str]:
        """The piece behind each id, word-boundary signs kept as the tokenizer writes them."""
        return cast("list[str]", self._tokenizer.convert_ids_to_tokens(list(token_ids)))

    def encode(self, examples: Sequence[Text], *, max_length: int) -> EncodedTexts:
        """Token ids of texts or pairs, cut to ``max_length`` tokens; of a pair, the longer text is cut first.

        Raises:
            InputError: an input is not a text or a pair of texts, or has no token but special ones.
            ConfigError: ``max_length`` leaves no room for the text.
        """
        _check_texts(examples)
        self._check_length(examples, max_length)
        backend = self._cutting(_Cut(max_length, side=self._tokenizer.truncation_side))
        token_ids: list[list[int]] = []
        token_types: list[list[int]] = []
        for start in range(0, len(examples), _CHUNK):
            chunk = backend.encode_batch_fast(list(examples[start : start + _CHUNK]))
            token_ids += [encoding.ids for encoding in chunk]
            if self._has_token_types:
                token_types += [encoding.type_ids for encoding in chunk]
        if not self._has_token_types:
            token_types = [[0] * len(ids) for ids in token_ids]
        self._check_tokens(examples, token_ids)
        return EncodedTexts(token_ids, token_types)

    def encode_windows(
        self, pairs: Sequence[Text], *, max_length: int, max_question_length: int, stride: int
    ) -> tuple[EncodedTexts, list[Window]]:
        """Token ids of questions with their contexts; a context that is too long is read in several windows.

        Args:
            pairs: questions and contexts.
            max_length: tokens of a window, question and special tokens included.
            max_question_length: questions are cut to so many tokens, and to half of a window.
            stride: tokens that neighbouring windows share, at most half of what a window has of a context.

        Raises:
            InputError: an input is no pair of texts, or one of the two has no token.
            ConfigError: ``max_length`` leaves no room for a context.
        """
        _check_texts(pairs)
        alone = [row for row, pair in enumerate(pairs) if isinstance(pair, str)]
        if alone:
            raise InputError(f"{_places(alone)}: one text; give a question and its context")
        self._check_length(pairs, max_length)
        free = max_length - self._num_special(is_pair=True)
        longest = min(max_question_length, free // 2)
        shared = min(stride, (free - longest) // 2)
        questions = self._shortened([pair[0] for pair in pairs], longest)
        backend = self._cutting(_Cut(max_length, "only_second", shared))
        token_ids, token_types = [], []
        windows: list[Window] = []
        for start in range(0, len(pairs), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(pairs)))
            chunk = backend.encode_batch([(questions[row], pairs[row][1]) for row in rows])
            for row, whole in zip(rows, chunk, strict=True):
                for part in (whole, *whole.overflowing):
                    windows.append(_window(part, row, pairs[row][1]))
                    token_ids.append(part.ids)
                    token_types.append(part.type_ids if self._has_token_types else [0] * len(part.ids))
        return EncodedTexts(token_ids, token_types), windows

    def _shortened(self, texts: list[str], max_length: int) -> list[str]:
        """Texts cut behind so many tokens."""
        backend = self._cutting(_Cut(max_length))
        encodings = backend.encode_batch(texts, add_special_tokens=False)
        empty = [row for row, encoding in enumerate(encodings) if not encoding.ids]
        if empty:
            raise InputError(f"{_places(empty)}: the tokenizer finds no token in the question; leave it out")
        return [
            text[: encoding.offsets[-1][1]] if encoding.overflowing else text
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _num_special(self, *, is_pair: bool) -> int:
        return int(self._tokenizer.backend_tokenizer.num_special_tokens_to_add(is_pair))

    def _check_length(self, examples: Sequence[Text], max_length: int) -> None:
        has_pairs = any(not isinstance(example, str) for example in examples)
        needed = self._num_special(is_pair=has_pairs) + (2 if has_pairs else 1)
        if max_length < needed:
            raise ConfigError(
                f"max_length is {max_length}; {'a pair' if has_pairs else 'a text'} needs at least {needed} "
                "tokens with its special ones"
            )

    def _check_tokens(self, examples: Sequence[Text], token_ids: list[list[int]]) -> None:
        special = {False: self._num_special(is_pair=False), True: self._num_special(is_pair=True)}
        empty = [
            row
            for row, (example, ids) in enumerate(zip(examples, token_ids, strict=True))
            if len(ids) <= special[not isinstance(example, str)]
        ]
        if empty:
            raise InputError(f"{_places(empty)}: the tokenizer finds no token in it; leave such inputs out")

    def _cutting(self, cut: _Cut) -> "Tokenizer":
        # Cutting is a setting of the backend, and changing it under a running thread fails; so each cut
        # has a copy that never changes again.
        from tokenizers import Tokenizer

        with self._lock:
            if cut not in self._backends:
                while len(self._backends) >= _MOST_COPIES:
                    del self._backends[next(iter(self._backends))]
                backend = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
                backend.no_padding()
                backend.enable_truncation(
                    cut.max_length, strategy=cut.strategy, stride=cut.stride, direction=cut.side
                )
                self._backends[cut] = backend
            return self._backends[cut]


def _window(part: "Encoding", question: int, context: str) -> Window:
    in_context = [place for place, text in enumerate(part.sequence_ids) if text == 1]
    if not in_context:
        raise InputError(f"{_places([question])}: the tokenizer finds no token in the context; leave it out")
    first, last = in_context[0], in_context[-1]
    return Window(
        question=question, context=context, first=first, offsets=tuple(part.offsets[first : last + 1])
    )


def _load(path_or_name: str) -> "PreTrainedTokenizerFast":
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path_or_name)
    except Exception as error:  # the loaders raise anything, bare Exception included
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the tokenizer of {path_or_name} cannot be read: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise CheckpointError(
            f"the tokenizer of {path_or_name} has no fast form; put a tokenizer.json beside the weights"
        )
    return cast("PreTrainedTokenizerFast", tokenizer)


def _check_files(folder: Path) -> None:
    if not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        raise CheckpointError(
            f"{folder} has no tokenizer; put tokenizer.json and tokenizer_config.json beside the weights"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = folder / name
        if not file.exists():
            continue
        try:
            data = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file} is not valid JSON ({error}); it is damaged or cut short") from None
        if not isinstance(data, dict) or (name == "tokenizer.json" and "model" not in data):
            raise CheckpointError(f"{file} is not a tokenizer file; it has no field 'model'")


def _check_texts(examples: Sequence[Text]) -> None:
    if isinstance(examples, str):
        raise InputError("one text was given where a list of texts is wanted; write [text]")
    wrong = [row for row, example in enumerate(examples) if not _is_text(example)]
    if wrong:
        kinds = sorted({type(examples[row]).__name__ for row in wrong})
        raise InputError(
            f"{_places(wrong)}: not a text (got {', '.join(kinds)}); give a str, or a tuple of two str, "
            "without half surrogates"
        )


def _is_text(example: object) -> bool:
    if isinstance(example, tuple):
        return len(example) == 2 and all(isinstance(part, str) and _is_unicode(part) for part in example)
    return isinstance(example, str) and _is_unicode(example)


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _places(rows: list[int]) -> str:
    named = ", ".join(map(str, rows[:_MOST_NAMED]))
    more = f" and {len(rows) - _MOST_NAMED} more" if len(rows) > _MOST_NAMED else ""
    return f"input {named}{more} (counted from 0)"


def _id_or(token_id: object, default: int) -> int:
    return token_id if isinstance(token_id, int) else default
