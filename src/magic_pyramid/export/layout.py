"""How attention sees packed tokens, computed inside the graph: many sequences padded, or one as it is."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from magic_pyramid.export.graph import FLOAT, INT64, GraphBuilder, Kind

NEGLIGIBLE = 70.0
"""A key whose score is lower than the largest by this gets a probability below 1e-30, which changes no sum.

Padding is raised to that: minus infinity would become a denormal number and make all that follows slow.
"""


class Layout(Protocol):
    """Adds the moves between packed tokens and attention; S sequences, W the longest of them, T tokens."""

    def padded(self, value: str) -> str:
        """``[T, ...]`` as ``[S, W, ...]``."""
        ...

    def padded_by_step(self, value: str) -> str:
        """``[T, ...]`` as ``[W, S, ...]``, which is how attention reads it without moving it first."""
        ...

    def packed(self, value: str, kept: str = "") -> str:
        """``[W * S, ...]`` step by step as ``[T, ...]``, or only those rows of it that are kept."""
        ...

    def first_tokens(self, value: str) -> str:
        """``[T, ...]`` to the first tokens, ``[S, ...]``."""
        ...

    def masked_bias(self, bias: str) -> str:
        """What is added to scores, ``[S, heads, W, W]``, with minus infinity at padded keys."""
        ...

    def softmax(self, scores: str, bias: str = "") -> str:
        """Probabilities over the keys, the last axis, of ``[S, heads, W, W]`` and a masked bias, if any."""
        ...

    def masked(self, scores: str) -> str:
        """``[S, W, heads]`` with minus infinity at padding."""
        ...

    def received(self, probs: str) -> str:
        """``[T]``: attention each token receives from the queries of its sequence, mean over the heads."""
        ...

    def per_token(self, value: str) -> str:
        """``[S]`` as what goes with ``[T]``."""
        ...

    def count(self, keep: str, kept: str) -> str:
        """``[S]``, int64: how many tokens are kept, from ``[T]``, bool, and the kept rows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedLayout:
    """Sequences right-padded to the longest of them: names of the index values."""

    graph: GraphBuilder
    lengths: str
    """``[S]``."""
    heads: int
    """Attention heads of the layers."""
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
    """``[W, S]``: the rows, step by step."""
    step_entries: str
    """``[T]``: place of each token in the flattened ``[W, S]``."""

    def padded(self, value: str) -> str:
        """Gather by sequence."""
        return self.graph.op("Gather", value, self.rows, axis=0)

    def padded_by_step(self, value: str) -> str:
        """Gather by place in the sequence."""
        return self.graph.op("Gather", value, self.steps_first, axis=0)

    def packed(self, value: str, kept: str = "") -> str:
        """Gather the entries that are tokens."""
        entries = self.graph.op("Gather", self.step_entries, kept, axis=0) if kept else self.step_entries
        return self.graph.op("Gather", value, entries, axis=0)

    def first_tokens(self, value: str) -> str:
        """Gather the starts."""
        return self.graph.op("Gather", value, self.starts, axis=0)

    def masked_bias(self, bias: str) -> str:
        """Add the mask."""
        return self.graph.op("Add", bias, self.key_bias)

    def softmax(self, scores: str, bias: str = "") -> str:
        """Without padding and bias there is nothing to add."""
        graph = self.graph

        def with_bias() -> list[str]:
            biased = graph.op("Add", scores, bias or self.key_bias)
            largest = graph.op("ReduceMax", biased, axes=[-1], keepdims=1)
            floor = graph.op("Sub", largest, graph.constant(np.float32(NEGLIGIBLE)))
            return [graph.op("Softmax", graph.op("Max", biased, floor), axis=-1)]

        def without() -> list[str]:
            return [graph.op("Softmax", scores, axis=-1)]

        if bias:
            return with_bias()[0]
        sides = (f"queries_of_{scores}", f"keys_of_{scores}")
        kind: Kind = (FLOAT, ("seqs", self.heads, *sides))
        return graph.choose(self.is_ragged, yes=with_bias, no=without, outputs=[kind])[0]

    def masked(self, scores: str) -> str:
        """Add the mask, keys first."""
        graph = self.graph
        mask = graph.op("Transpose", graph.op("Squeeze", self.key_bias, graph.integers(1)), perm=[0, 2, 1])
        return graph.op("Add", scores, mask)

    def received(self, probs: str) -> str:
        """A row of ones for the queries that are tokens, times the probabilities."""
        graph = self.graph
        queries = graph.op("Unsqueeze", graph.op("Cast", self.valid, to=FLOAT), graph.integers(1, 2))
        received = graph.op("ReduceMean", graph.op("MatMul", queries, probs), axes=[1, 2], keepdims=0)
        return graph.op("Gather", graph.op("Reshape", received, graph.integers(-1)), self.entries, axis=0)

    def per_token(self, value: str) -> str:
        """Gather by owner."""
        return self.graph.op("Gather", value, self.owner, axis=0)

    def count(self, keep: str, kept: str) -> str:
        """Add up by owner."""
        graph = self.graph
        zeros = graph.op("Sub", self.lengths, self.lengths)
        ones = graph.op("Cast", keep, to=INT64)
        return graph.op("ScatterElements", zeros, self.owner, ones, reduction="add")


def plan_layout(graph: GraphBuilder, lengths: str, *, heads: int) -> PaddedLayout:
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
    return PaddedLayout(
        graph=graph,
        lengths=lengths,
        heads=heads,
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


@dataclass(frozen=True, slots=True)
class OneSequence:
    """All tokens are one sequence: nothing is padded, and most moves are none."""

    graph: GraphBuilder
    heads: int
    """Attention heads of the layers."""

    def padded(self, value: str) -> str:
        """One more axis."""
        return self.graph.op("Unsqueeze", value, self.graph.integers(0))

    def padded_by_step(self, value: str) -> str:
        """One more axis."""
        return self.graph.op("Unsqueeze", value, self.graph.integers(1))

    def packed(self, value: str, kept: str = "") -> str:
        """Every entry is a token."""
        return self.graph.op("Gather", value, kept, axis=0) if kept else value

    def first_tokens(self, value: str) -> str:
        """The first row."""
        return self.graph.op("Gather", value, self.graph.integers(0), axis=0)

    def masked_bias(self, bias: str) -> str:
        """There is no mask."""
        return bias

    def softmax(self, scores: str, bias: str = "") -> str:
        """There is no mask."""
        return self.graph.op("Softmax", self.graph.op("Add", scores, bias) if bias else scores, axis=-1)

    def masked(self, scores: str) -> str:
        """There is no mask."""
        return scores

    def received(self, probs: str) -> str:
        """Sum over all queries and heads."""
        total = self.graph.op("ReduceSum", probs, self.graph.integers(0, 1, 2), keepdims=0)
        return self.graph.op("Mul", total, self.graph.constant(np.float32(1 / self.heads)))

    def per_token(self, value: str) -> str:
        """One number goes with all."""
        return value

    def count(self, keep: str, kept: str) -> str:
        """As many as there are rows."""
        return self.graph.op("Shape", kept)
