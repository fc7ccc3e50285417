"""Which inputs run together: sorted by length, cut by a token budget or a batch size."""

from magic_pyramid.errors import ConfigError


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


def cut_by_tokens(batches: list[list[int]], lengths: list[int], *, tokens_per_batch: int) -> list[list[int]]:
    """The same batches, those above the token budget in several parts."""
    return [
        [batch[place] for place in part]
        for batch in batches
        for part in plan_batches(
            [lengths[index] for index in batch], tokens_per_batch=tokens_per_batch, batch_size=None
        )
    ]
