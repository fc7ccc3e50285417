"""Short names of texts, by which a folder can say later whether it has seen one in training."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt64

from magic_pyramid.data.examples import Example


def row_fingerprints(examples: Sequence[Example]) -> UInt64[np.ndarray, " rows"]:
    """64 bits of each row's texts; labels and differences in white space do not count.

    Two different texts share one by chance of about rows times rows over 4e19.
    """
    return np.array([_fingerprint(example) for example in examples], dtype=np.uint64)


def _fingerprint(example: Example) -> int:
    texts = [" ".join(text.split()) for text in (example.text, example.text_pair or "")]
    digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
