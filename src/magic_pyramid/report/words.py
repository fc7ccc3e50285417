"""Readable words from sub-word pieces: marks stripped, neighbours joined, control characters harmless."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SPECIAL = re.compile(r"\[[A-Z]{2,}\d*\]|</?[a-z_]+>|<\|[^|]*\|>")
"""What tokenizers add around a text: [CLS], </s>, <|endoftext|>."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as a reader should see it."""

    text: str
    """Without the tokenizer's marks; never empty."""
    starts_word: bool
    """False: it continues the word of the piece before it."""
    is_special: bool
    """Added by the tokenizer, not written by the author."""

    @property
    def is_wordlike(self) -> bool:
        """Has a letter or a digit and was written by the author."""
        return not self.is_special and any(character.isalnum() for character in self.text)


def pieces(tokens: Sequence[str]) -> list[Piece]:
    """Read the marks of SentencePiece, byte-level BPE or WordPiece; which of them is found by looking."""
    if any(token.startswith("▁") for token in tokens):
        split = [(token.removeprefix("▁"), token.startswith("▁")) for token in tokens]
    elif any(token.startswith("Ġ") for token in tokens):
        split = [(_from_bytes(token).removeprefix(" "), token.startswith("Ġ")) for token in tokens]
    else:
        split = [(token.removeprefix("##"), not token.startswith("##")) for token in tokens]
    result: list[Piece] = []
    for token, (text, starts) in zip(tokens, split, strict=True):
        is_special = SPECIAL.fullmatch(token) is not None
        after_special = not result or result[-1].is_special
        result.append(Piece(_printable(text) or "␣", starts or is_special or after_special, is_special))
    return result


def joined(parts: Sequence[Piece], positions: Iterable[int], *, gap: str = " … ") -> str:
    """The pieces at these positions as running text; `gap` stands where others were left out."""
    words, last = "", None
    for position in positions:
        if last is not None:
            next_to = position == last + 1
            words += ("" if not parts[position].starts_word else " ") if next_to else gap
        words += parts[position].text
        last = position
    return words


def whole_word(parts: Sequence[Piece], position: int) -> tuple[int, str]:
    """The word a piece belongs to: where it starts, and all of it."""
    first = position
    while first > 0 and not parts[first].starts_word:
        first -= 1
    end = first + 1
    while end < len(parts) and not parts[end].starts_word:
        end += 1
    return first, "".join(part.text for part in parts[first:end])


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where the rest was."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "�" for character in text)


def _from_bytes(token: str) -> str:
    table = _byte_table()
    if not all(character in table for character in token):
        return token
    return bytes(table[character] for character in token).decode(errors="replace")


def _byte_table() -> dict[str, int]:
    """Byte-level BPE writes each byte as a visible character; those without one moved up by 256."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + i): byte for i, byte in enumerate(hidden)}
