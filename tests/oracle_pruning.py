"""The definition of each way to prune: which tokens of one sequence a layer keeps, in plain loops."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What a pruner sees of one sequence at one layer."""

    index: int
    scale: float
    mass: list[float]
    token_ids: list[int]
    """Of the tokens alive."""
    input_length: int


def threshold(pruner, layer):
    """Importance at or above the threshold, or protected."""
    prune, bar = pruner.config, float(pruner.token_thresholds[layer.index]) * layer.scale
    divisors = {"kept": len(layer.mass), "input": layer.input_length, "fixed": prune.fixed_length}
    divisor = divisors[prune.score_norm]
    return [
        i
        for i, (mass, token) in enumerate(zip(layer.mass, layer.token_ids, strict=True))
        if not bar or mass / divisor >= max(1e-5, bar) or (prune.protect_sep and token == pruner.sep_token_id)
    ]


def rank_bins(pruner, layer):
    """The share of the ranked tokens that the likely bins amount to, from the top; or those bins exactly."""
    prune, bins = pruner.config, pruner.config.num_bins
    row = pruner.rows.get(layer.index)
    if row is None or chance(pruner.coarse[row]) < 0.5:
        return range(len(layer.mass))
    ranked = sorted(range(1, len(layer.mass)), key=lambda i: -layer.mass[i])
    removed = round(bins - sum(chance(alpha) for alpha in pruner.fine[row]))
    if prune.selection == "ranked_topk":
        share = max(0.0, 1 - removed * layer.scale / bins)
        return sorted(ranked[: math.ceil(share * len(ranked) - 1e-9)])
    unlikely = sorted(range(bins), key=lambda b: (float(pruner.fine[row, b]), -b))
    gone = unlikely[: min(bins, round(removed * layer.scale))]
    return sorted(i for rank, i in enumerate(ranked) if rank * bins // len(ranked) not in gone)


def chance(alpha):
    """P(z != 0) of a hard-concrete variable."""
    return 1 / (1 + math.exp(-float(alpha) - 1.5986))


RULES = {"threshold": threshold, "rank_bins": rank_bins}
