"""Which inputs run together: sorted by length, cut by a token budget or a batch size."""

from magic_pyramid.errors import ConfigError

MAX_WASTE = 1.2
"""Attention over a padded batch may compute this many times the pairs of tokens that its inputs have."""


def plan_batches(lengths: list[int], *, tokens_per_batch: int, batch_size: int | None) -> list[list[int]]:
    """Indices of the inputs of each batch, shortest inputs first.

    Args:
        lengths: tokens of each input.
        tokens_per_batch: budget of one batch; one longer input is a batch of its own.
        batch_size: exactly this many inputs per batch instead of the budget (the last batch may be smaller).

    Raises:
        ConfigError: ``batch_size`` is not positive.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; it must be at least 1, or None to fill by tokens")
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    if batch_size is not None:
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    batches: list[list[int]] = []
    tokens = 0
    for index in order:
        if batches and tokens + lengths[index] <= tokens_per_batch:
            batches[-1].append(index)
            tokens += lengths[index]
        else:
            batches.append([index])
            tokens = lengths[index]
    return batches


def cut_batches(
    batches: list[list[int]], lengths: list[int], *, tokens_per_batch: int, enough_tokens: int
) -> list[list[int]]:
    """The same batches in parts: none above the budget, and none that attention would have to pad much.

    Args:
        batches: indices of inputs, shortest first.
        lengths: tokens of each input.
        tokens_per_batch: budget of one part; one longer input is a part of its own.
        enough_tokens: a part with fewer is not cut because of padding.
    """
    parts: list[list[int]] = []
    for batch in batches:
        part: list[int] = []
        tokens = pairs = 0
        for index in batch:
            length = lengths[index]
            is_full = tokens + length > tokens_per_batch
            padded, needed = (len(part) + 1) * length**2, pairs + length**2
            if part and (is_full or (tokens >= enough_tokens and padded > MAX_WASTE * needed)):
                parts.append(part)
                part, tokens, pairs = [], 0, 0
            part.append(index)
            tokens += length
            pairs += length**2
        parts.append(part)
    return parts
