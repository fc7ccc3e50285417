"""Attention's padded view of packed tokens, computed inside the graph from the lengths alone."""

from dataclasses import dataclass

import numpy as np

from magic_pyramid.export.graph import INT64, GraphBuilder


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphLayout:
    """Names of the index values of one layout; sizes: S sequences, W the longest of them, T tokens."""

    rows: str
    """``[S, W]``: packed row of each entry; padding points at row 0."""
    starts: str
    """``[S]``: packed row of each first token."""
    valid: str
    """``[S, W]``, bool: which entries are tokens."""
    is_ragged: str
    """Whether there is any padding."""
    key_bias: str
    """``[S, 1, 1, W]``: what is added to the scores, minus infinity at padding."""
    owner: str
    """``[T]``: sequence of each token."""
    entries: str
    """``[T]``: place of each token in the flattened ``[S, W]``."""
    steps_first: str
    """``[W, S]``: the rows, step by step, which is how attention reads them without moving them first."""
    step_entries: str
    """``[T]``: place of each token in the flattened ``[W, S]``."""


def plan_layout(graph: GraphBuilder, lengths: str) -> GraphLayout:
    """Right-pad sequences of these lengths to the longest of them."""
    ends = graph.op("CumSum", lengths, graph.constant(np.int64(0), np.int64))
    starts = graph.op("Sub", ends, lengths)
    width = graph.op("ReduceMax", lengths, axes=[0], keepdims=0)
    zero, one = graph.constant(np.int64(0), np.int64), graph.constant(np.int64(1), np.int64)
    steps = graph.op("Range", zero, width, one)
    last_axis = graph.integers(1)
    valid = graph.op("Less", steps, graph.op("Unsqueeze", lengths, last_axis))
    rows = graph.op("Add", graph.op("Unsqueeze", starts, last_axis), steps)
    bias = graph.op("Where", valid, graph.constant(np.float32(0)), graph.constant(np.float32(-np.inf)))
    places = graph.op("NonZero", valid)
    owner = graph.op("Gather", places, zero, axis=0)
    step = graph.op("Gather", places, one, axis=0)
    count = graph.op("Gather", graph.op("Shape", lengths), zero, axis=0)
    rows = graph.op("Where", valid, rows, zero)
    return GraphLayout(
        rows=rows,
        starts=starts,
        valid=valid,
        is_ragged=graph.op("Less", graph.op("ReduceMin", lengths, axes=[0], keepdims=0), width),
        key_bias=graph.op("Unsqueeze", bias, graph.integers(1, 2)),
        owner=owner,
        entries=graph.op("Add", graph.op("Mul", owner, width), step),
        steps_first=graph.op("Transpose", rows, perm=[1, 0]),
        step_entries=graph.op("Add", graph.op("Mul", step, count), owner),
    )


def count_kept(graph: GraphBuilder, lengths: str, owner: str, keep: str) -> str:
    """``[S]``: how many tokens of each sequence are kept."""
    zeros = graph.op("Sub", lengths, lengths)
    return graph.op("ScatterElements", zeros, owner, graph.op("Cast", keep, to=INT64), reduction="add")
