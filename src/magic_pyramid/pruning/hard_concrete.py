"""Hard-concrete variables: random numbers in [0, 1] that are often exactly 0 or 1, yet have a gradient.

A sigmoid of logistic noise around ``log_alpha`` is stretched beyond [0, 1] and cut off there (Louizos et al.,
*Learning Sparse Neural Networks through L0 Regularization*, ICLR 2018).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

LOWEST, HIGHEST = -0.1, 1.1
"""What the sigmoid is stretched to."""
TEMPERATURE = 2 / 3
SHIFT = -TEMPERATURE * math.log(-LOWEST / HIGHEST)
"""1.5986: a variable is not zero with probability sigmoid(log_alpha + SHIFT)."""
LARGEST = -math.log(0.01)
"""4.605: a ``log_alpha`` further from 0 than this would hardly learn any more."""
_SMALLEST_NOISE = 1e-6


def sample(log_alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Draw each variable once."""
    noise = torch.rand_like(log_alpha).clamp(_SMALLEST_NOISE, 1 - _SMALLEST_NOISE)
    soft = torch.sigmoid((noise.logit() + log_alpha) / TEMPERATURE)
    return (soft * (HIGHEST - LOWEST) + LOWEST).clamp(0.0, 1.0)


def probability(log_alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """How likely each variable is not zero."""
    return torch.sigmoid(log_alpha + SHIFT)


def binarise(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """0 or 1, whichever is nearer, with the gradient of the value itself (straight-through)."""
    return (values > 0.5).to(values.dtype) + values - values.detach()
