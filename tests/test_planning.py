"""Which exit heads pay: the search equals trying every choice text by text."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_pyramid.errors import ConfigError
from magic_pyramid.planning import MOST_HEADS, Cost, CostTable, ExitStatistics, plan_exits

LAYERS = 4
EXITS = (0, 1, 2)


def line(layer, head):
    """A table of costs ``constant + slope * tokens``."""
    return CostTable(
        rows=tuple(
            Cost(
                rows=1,
                tokens=tokens,
                layer_s=layer[0] + layer[1] * tokens,
                head_s=head[0] + head[1] * tokens,
            )
            for tokens in (1, 1000)
        )
    )


def statistics(texts, *, tokens=(8.0, 6.0, 5.0, 3.0, 2.0), exits=EXITS):
    return ExitStatistics(
        exit_threshold=0.2,
        prune_scale=1.0,
        exit_layers=exits,
        patterns={pattern: texts.count(pattern) for pattern in sorted(set(texts))},
        mean_tokens=tokens,
    )


def seconds_of(found, texts, layer, head, tested, batch_size):
    """Mean over every batch that can be drawn: its texts go through the layers one after the other."""
    total = 0.0
    batches = list(itertools.product(texts, repeat=batch_size))
    for batch in batches:
        alive = list(batch)
        for index in range(LAYERS):
            if alive:
                total += layer[0] + layer[1] * len(alive) * found.mean_tokens[index]
            if index in tested and alive:
                total += head[0] + head[1] * len(alive) * found.mean_tokens[index + 1]
                sign = found.exit_layers.index(index)
                alive = [pattern for pattern in alive if pattern[sign] == "0"]
    return total / len(batches) / batch_size


CHOICES = [tested for size in range(4) for tested in itertools.combinations(EXITS, size)]
cost = st.tuples(st.floats(0.0, 5.0), st.floats(0.01, 2.0))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    texts=st.lists(
        st.sampled_from(["".join(p) for p in itertools.product("01", repeat=3)]), min_size=1, max_size=6
    ),
    layer=cost,
    head=cost,
    batch_size=st.integers(1, 3),
)
def test_the_plan_is_the_cheapest_of_all_choices(texts, layer, head, batch_size):
    found = statistics(texts)
    brute = {tested: seconds_of(found, texts, layer, head, tested, batch_size) for tested in CHOICES}
    plan = plan_exits(found, line(layer, head), batch_size=batch_size)
    assert plan.seconds == pytest.approx(min(brute.values()))
    assert plan.seconds == pytest.approx(brute[plan.tested_layers])
    assert plan.seconds_all == pytest.approx(brute[EXITS])
    assert plan.seconds_none == pytest.approx(brute[()])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    texts=st.lists(
        st.sampled_from(["".join(p) for p in itertools.product("01", repeat=3)]), min_size=1, max_size=6
    ),
    layer=cost,
    head=cost,
)
def test_a_head_is_asked_where_it_saves_what_it_costs(texts, layer, head):
    found = statistics(texts)
    plan = plan_exits(found, line(layer, head), batch_size=1)
    assert tuple(one.layer for one in plan.heads) == EXITS
    assert tuple(one.layer for one in plan.heads if one.is_tested) == plan.tested_layers
    for one in plan.heads:
        gain = one.saved_s - one.head_s
        assert gain >= -1e-9 if one.is_tested else gain <= 1e-9
        assert 0 <= one.leaving <= one.arriving + 1e-12 <= 1 + 1e-9


def test_no_head_is_asked_where_none_pays():
    texts = ["011"] * 3 + ["000"] * 7
    plan = plan_exits(statistics(texts), line((0.0, 1.0), (1e3, 0.0)), batch_size=8)
    assert plan.tested_layers == ()
    assert plan.seconds == plan.seconds_none < plan.seconds_all


def test_a_small_gain_is_left_alone():
    texts, costs = statistics(["111"] * 5 + ["000"] * 5), line((0.0, 1.0), (0.1, 0.0))
    plan = plan_exits(texts, costs, batch_size=1)
    gain = 1.0 - plan.seconds / plan.seconds_all
    assert gain > 0
    assert plan_exits(texts, costs, batch_size=1, min_gain=gain / 2) == plan
    left_alone = plan_exits(texts, costs, batch_size=1, min_gain=gain * 2)
    assert left_alone.tested_layers == texts.exit_layers
    assert left_alone.seconds == left_alone.seconds_all


def test_heads_that_repeat_an_earlier_one_are_not_asked():
    plan = plan_exits(statistics(["111"] * 5 + ["000"] * 5), line((0.0, 1.0), (0.1, 0.0)), batch_size=1)
    assert plan.tested_layers == (0,)
    first, second, _ = plan.heads
    assert (first.arriving, first.leaving) == (1.0, 0.5)
    assert (second.arriving, second.leaving, second.saved_s) == (0.5, 0.0, pytest.approx(0.0))


def test_the_batch_size_can_turn_the_choice():
    """A call whose price does not depend on its size is shared by the texts of a batch."""
    found = statistics(["111"] * 5 + ["000"] * 5)
    costs = line((1.0, 0.0), (1.2, 0.0))
    assert plan_exits(found, costs, batch_size=1).tested_layers == (0,)
    assert plan_exits(found, costs, batch_size=32).tested_layers == ()


def test_costs_are_linear_between_and_beyond_the_measured_sizes_and_free_of_noise():
    rows = [(10, 2.0, -0.1), (20, 1.0, 0.3), (30, 4.0, 0.2)]
    table = CostTable(rows=tuple(Cost(rows=1, tokens=t, layer_s=a, head_s=b) for t, a, b in rows))
    tokens = np.array([1.0, 10.0, 20.0, 25.0, 30.0, 40.0])
    assert table.layer_seconds(tokens).tolist() == [1.5, 1.5, 1.5, 2.75, 4.0, 5.25]
    assert table.head_seconds(tokens).tolist() == pytest.approx([0.0, 0.0, 0.25, 0.25, 0.25, 0.375])


def test_statistics_and_costs_are_plain_data():
    found, costs = statistics(["010", "000", "010"]), line((1.0, 2.0), (0.5, 0.1))
    assert found.num_texts == 3
    assert ExitStatistics.from_dict(found.to_dict()) == found
    assert CostTable.from_dict(costs.to_dict()) == costs


def test_more_heads_than_can_be_searched_are_refused():
    exits = tuple(range(MOST_HEADS + 1))
    many = statistics(["0" * len(exits)], tokens=(3.0,) * (len(exits) + 2), exits=exits)
    with pytest.raises(ConfigError, match=r"has 24 exit heads; a plan is searched for up to 23: name fewer"):
        plan_exits(many, line((1.0, 1.0), (1.0, 1.0)), batch_size=1)
