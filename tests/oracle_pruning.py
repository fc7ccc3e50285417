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
    own: list[float]
    """The part of the mass that each token pays to itself."""
    received: list[float]
    """The mass of all layers so far."""


def threshold(pruner, layer):
    """Importance at or above the threshold, or protected."""
    prune, bar = pruner.config, float(pruner.token_thresholds[layer.index]) * layer.scale
    counts = {"kept": len(layer.mass), "input": layer.input_length, "fixed": prune.fixed_length}
    divisor = max(layer.mass) if prune.score_norm == "max" else counts[prune.score_norm]
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


def rank_counts(pruner, layer):
    """The tokens that others attend to most, as many as the shares of a layer so far amount to at least."""
    amounts = [1 + sum(float(share) for share in row) for row in pruner.shares[: layer.index + 1]]
    count = math.floor(min(math.floor(amount + 1e-4) for amount in amounts) / layer.scale + 1e-4)
    others = [mass - own for mass, own in zip(layer.mass, layer.own, strict=True)]
    return top(others, max(count, 1))


def cascade(pruner, layer):
    """The tokens attended most so far, or in this layer, as many as are left of the input's by schedule."""
    share = max(0.0, 1 - layer.scale * (1 - float(pruner.keep_ratios[layer.index])))
    values = layer.received if pruner.config.accumulate else layer.mass
    return top(values, max(round(layer.input_length * share), 1))


def top(values, count):
    """The first token and the largest others, so many together, in order."""
    ranked = sorted(range(1, len(values)), key=lambda i: -values[i])
    return sorted([0, *ranked[: count - 1]])


def heads_run(pruner, index, given, scale):
    """Attention heads that a layer runs: all, or in a cascade those that gave most so far."""
    prune = pruner.config
    if prune.kind != "cascade":
        return range(len(given))
    first = math.ceil(0.3 * pruner.num_layers) if prune.whole_head_layers is None else prune.whole_head_layers
    step = max(0, index - first + 1) / max(1, pruner.num_layers - first)
    removed = min(1.0, scale * (1 - prune.final_head_ratio) * step)
    ranked = sorted(range(len(given)), key=lambda head: -given[head])
    return sorted(ranked[: max(1, round(len(given) * (1 - removed)))])


RULES = {"threshold": threshold, "rank_bins": rank_bins, "rank_counts": rank_counts, "cascade": cascade}
