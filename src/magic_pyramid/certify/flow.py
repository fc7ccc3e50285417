"""How texts go through the model: which layer answers, and how many tokens are left by then."""

import numpy as np
from jaxtyping import Int, Int64

KEPT_EDGES = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362, 512)
"""Lower edges of the bins of tokens, from one on; the last bin has no upper edge."""


def kept_bins(tokens: Int[np.ndarray, " texts"]) -> Int64[np.ndarray, " bins"]:
    """Texts by the tokens alive after the layer that answered; so longer inputs show as well."""
    places = np.searchsorted(np.asarray(KEPT_EDGES), tokens, side="right") - 1
    return np.bincount(places, minlength=len(KEPT_EDGES))
