"""FLOPs: the published numbers, the closed formula, and that doing less never costs more."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from magic_pyramid.config import BackboneConfig, CascadeConfig, ExitConfig, ModelConfig, PruneConfig
from magic_pyramid.cost import CostModel, flops_speedup
from magic_pyramid.errors import ConfigError, InputError

CONVENTIONS = ("ltp", "actual", "top", "fastbert")
HEADS = ("fastbert", "cls", "block")


def bert_base(**settings: Any) -> CostModel:
    backbone = BackboneConfig(
        model_type="bert",
        vocab_size=30522,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        max_position_embeddings=512,
    )
    return CostModel(ModelConfig(**{"backbone": backbone, "labels": ("a", "b"), **settings}))


def tiny(head: Any = "fastbert", layers: tuple[int, ...] | None = None, **settings: Any) -> CostModel:
    backbone = BackboneConfig(
        model_type="bert",
        vocab_size=30,
        hidden_size=4,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=6,
        max_position_embeddings=64,
    )
    exits = ExitConfig(head=head, layers=layers, head_size=2, head_attention_heads=2)
    return CostModel(ModelConfig(backbone=backbone, labels=("a", "b"), max_length=10, exit=exits, **settings))


def full(length: int, *, num_layers: int = 12) -> np.ndarray:
    return np.full((1, num_layers + 1), length)


def layers_only(model: CostModel, length: int, convention: Any = "ltp") -> float:
    return float(model.layer_flops(full(length), convention=convention).sum())


def test_bert_base_at_128_tokens_costs_22_gigaflops():
    assert layers_only(bert_base(), 128) == 36_864 * 128**2 + 169_869_312 * 128
    assert layers_only(bert_base(), 128) / 1e9 == pytest.approx(22.347, abs=5e-4)


def test_ag_news_costs_9_gigaflops():
    published = 36_864 * 52.4**2 + 169_869_312 * 52.4
    assert published == pytest.approx(9.0e9, rel=2e-3)
    assert layers_only(bert_base(), 52) < 9.0e9 < layers_only(bert_base(), 53)


def test_fastbert_baseline_is_the_published_number():
    model = bert_base(final_head="fastbert")
    assert model.dense_flops(np.array([40, 128]), convention="fastbert").tolist() == [21_785_247_744.0] * 2


def exit_head_flops(head: Any, convention: Any, length: int) -> float:
    """What one exit head at the first layer adds, for BERT-base."""
    model = bert_base(exit=ExitConfig(head=head, layers=(0,)))
    run = (full(length), np.array([11]))
    with_exits = model.flops(*run, convention=convention, tested_layers=None)
    return float((with_exits - model.flops(*run, convention=convention, tested_layers=()))[0])


def test_head_overheads_of_the_papers():
    layer = layers_only(bert_base(), 128, "fastbert") / 12
    narrow, attention, dense = 25_165_824, 16_777_216, 32_768
    assert exit_head_flops("fastbert", "fastbert", 128) == narrow + attention + dense
    assert 12 / (1 + exit_head_flops("fastbert", "fastbert", 128) / layer) == pytest.approx(11.73, abs=0.01)
    assert 12 / (1 + exit_head_flops("block", "fastbert", 128) / layer) == pytest.approx(6.0, abs=0.01)
    assert 0.001 < exit_head_flops("cls", "ltp", 64) / (layers_only(bert_base(), 64) / 12) < 0.002


def test_one_query_costs_less_than_all_and_folding_less_still():
    costs = [exit_head_flops("fastbert", convention, 128) for convention in ("actual", "ltp", "fastbert")]
    assert costs == sorted(costs)
    assert costs[1] == 2 * (128 * (768 * 128 + 2 * 128**2 + 2 * 128) + 3 * 128**2 + 128 * 2)
    assert costs[0] == 2 * (128 * (768 * 128 + 2 * 2 * 128) + 5 * 128**2 + 128 * 2)


def test_layer_formulas_by_hand():
    arrived, kept, last = 5, 3, 2
    counts = np.array([[arrived, kept, kept, last]])
    expected = {
        "ltp": [2 * 4 * 25 + 64 * 5 + 48 * 3, 2 * 4 * 9 + 64 * 3 + 48 * 3, 2 * 4 * 9 + 64 * 3 + 48 * 2],
        "actual": [
            4 * 25 + 4 * 15 + 48 * 5 + 16 * 3 + 48 * 3,
            8 * 9 + 64 * 3 + 48 * 3,
            36 + 24 + 144 + 32 + 96,
        ],
        "top": [10 * 25 + 64 * 5 + 48 * 3, 10 * 9 + 64 * 3 + 48 * 3, 10 * 9 + 64 * 3 + 48 * 3],
        "fastbert": [64 * 10 + 48 * 8, 64 * 8 + 48 * 8, 64 * 8 + 48 * 7],
    }
    for convention, macs in expected.items():
        assert tiny().layer_flops(counts, convention=convention)[0].tolist() == [2.0 * m for m in macs]


def test_heads_that_do_not_run_save_their_scores_and_their_context():
    prune = CascadeConfig(final_head_ratio=0.5, whole_head_layers=2)
    counts = np.array([[5, 3, 3, 2]])
    # The last layer runs one of two heads: half of its attention among 3 tokens, of which 2 are kept.
    saved = {"ltp": 4 * 9, "actual": 2 * 9 + 2 * 6, "top": 5 * 9, "fastbert": 0}
    for convention, macs in saved.items():
        pruned, plain = (
            tiny(**parts).layer_flops(counts, convention=convention)[0] for parts in ({"prune": prune}, {})
        )
        assert (plain - pruned).tolist() == [0.0, 0.0, 2.0 * macs]
    model, last = tiny(prune=prune), np.array([2])
    assert model.flops(counts, last) == tiny().flops(counts, last) - 2 * 4 * 9
    assert model.flops(counts, last, prune_scale=0.0) == tiny().flops(counts, last)
    assert model.dense_flops(np.array([5])) == tiny().dense_flops(np.array([5]))


def test_an_exit_pays_its_layers_and_the_heads_up_to_it():
    model = tiny("cls", layers=(0, 1))
    counts = np.array([[5, 4, 4, 0], [5, 5, 0, 0], [5, 5, 5, 5]])
    exit_layer = np.array([1, 0, 2])
    layers = model.layer_flops(counts)
    head = 2 * (4 * 4 + 4 * 2)
    expected = [layers[0, :2].sum() + 2 * head, layers[1, 0] + head, layers[2].sum() + 3 * head]
    assert model.flops(counts, exit_layer).tolist() == expected
    only_second = model.flops(counts, exit_layer, tested_layers=(1,))
    assert only_second.tolist() == [expected[0] - head, expected[1] - head, expected[2] - head]
    uncharged = model.flops(counts, exit_layer, tested_layers=())
    assert uncharged.tolist() == [expected[0] - 2 * head, expected[1] - head, expected[2] - 2 * head]


def test_heads_pay_for_the_tokens_alive_after_their_layer():
    model = tiny("fastbert", layers=(1,))
    counts = np.array([[5, 4, 3, 0]])
    layers = model.layer_flops(counts)[0, :2].sum()
    assert model.flops(counts, np.array([1])).tolist() == [layers + 2 * (3 * (8 + 8 + 4) + 12 + 4)]


def test_a_model_without_exits_has_no_heads_to_pay():
    plain = CostModel(tiny().config.replace(exit=None))
    counts, last = full(5, num_layers=3), np.array([2])
    assert plain.flops(counts, last) == plain.flops(counts, last, tested_layers=())


def test_padded_dense_pays_for_padding():
    model, lengths = tiny(), np.array([3, 9])
    for convention in CONVENTIONS:
        padded = model.padded_dense_flops(lengths, 9, convention=convention)
        assert padded[0] == padded[1] == model.dense_flops(np.array([9]), convention=convention)[0]


def test_speedup_is_a_ratio_of_means():
    assert flops_speedup(np.array([10.0, 30.0]), np.array([5.0, 5.0])) == 4.0


def as_tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float64)) for array in arrays]


@pytest.mark.parametrize("head", HEADS)
def test_the_expectation_of_a_certain_course_is_its_cost_in_arrays_and_tensors(head):
    model = tiny(head, layers=(0, 1), final_head="fastbert")
    counts, exit_layer = np.array([[9, 5, 2, 2], [7, 7, 6, 1], [4, 4, 4, 4]]), np.array([1, 2, 0])
    reach = np.arange(3) <= exit_layer[:, None]
    exact = model.flops(counts, exit_layer)
    assert model.expected_flops(counts, reach).tolist() == exact.tolist()
    assert model.expected_flops(*as_tensors(counts, reach)).tolist() == exact.tolist()
    all_run = model.flops(counts, np.full(3, 2), tested_layers=())
    assert model.expected_flops(*as_tensors(counts)).tolist() == all_run.tolist()


def test_the_expectation_of_an_exit_lies_between_its_outcomes():
    model = tiny("cls")
    counts = np.array([[9.0, 5.0, 2.0, 2.0]])
    leaves = model.expected_flops(counts, np.array([[1.0, 0.0, 0.0]]))
    stays = model.expected_flops(counts, np.array([[1.0, 1.0, 1.0]]))
    half = model.expected_flops(counts, np.array([[1.0, 0.5, 0.5]]))
    assert half.tolist() == [float(leaves[0] + stays[0]) / 2]


def test_every_expected_token_has_a_price():
    counts = torch.tensor([[9.0, 5.0, 2.0, 2.0]], requires_grad=True)
    tiny().expected_flops(counts, torch.tensor([[1.0, 0.5, 0.25]])).sum().backward()
    assert counts.grad is not None
    assert (counts.grad > 0).all()


@pytest.mark.parametrize("prune", [None, PruneConfig()], ids=["all tokens", "pruned"])
def test_the_least_cost_is_one_token_from_the_first_layer_on_and_its_exit(prune):
    model, lengths = tiny("cls", prune=prune), np.array([9, 4])
    kept = lengths if prune is None else np.ones(2)
    counts = np.stack([lengths, kept, kept, kept], axis=1).astype(int)
    assert model.least_flops(lengths).tolist() == model.flops(counts, np.array([0, 0])).tolist()
    plain = CostModel(model.config.replace(exit=None))
    assert plain.least_flops(lengths).tolist() == plain.flops(counts, np.array([2, 2])).tolist()


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 512), head=st.sampled_from(["cls", "fastbert"]))
def test_nothing_removed_costs_the_closed_formula(length, head):
    model = bert_base(final_head=head)
    d, s, n = 768, 128, length
    final = {"cls": d * d + 2 * d, "fastbert": n * (d * s + 2 * s * s + 2 * s) + 3 * s * s + 2 * s}[head]
    assert model.dense_flops(np.array([n]))[0] == 2 * (12 * (2 * d * n * n + 12 * d * d * n) + final)


@st.composite
def two_pyramids(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of one input under weaker and stronger pruning, and an earlier and a later exit layer."""
    length = draw(st.integers(1, 14))
    weaker = [length]
    stronger = [length]
    for _ in range(3):
        weaker.append(draw(st.integers(1, weaker[-1])))
        stronger.append(draw(st.integers(1, min(stronger[-1], weaker[-1]))))
    exits = sorted(draw(st.lists(st.integers(0, 2), min_size=2, max_size=2)))
    return np.array([weaker]), np.array([stronger]), np.array(exits)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("head", HEADS)
@settings(deadline=None, max_examples=40)
@given(pyramids=two_pyramids())
def test_removing_tokens_or_layers_never_costs_more(head, convention, pyramids):
    weaker, stronger, exits = pyramids
    model = tiny(head)

    def cost(counts: np.ndarray, exit_layer: int) -> float:
        return float(model.flops(counts, np.array([exit_layer]), convention=convention)[0])

    assert cost(stronger, exits[1]) <= cost(weaker, exits[1])
    assert cost(weaker, exits[0]) <= cost(weaker, exits[1])
    assert cost(weaker, 2) <= cost(full(int(weaker[0, 0]), num_layers=3), 2)


def test_counts_that_do_not_fit_the_model_are_refused():
    with pytest.raises(InputError, match=r"shape \(1, 3\); this model needs \(inputs, 4\)"):
        tiny().flops(full(5, num_layers=2), np.array([2]))


def test_an_unknown_convention_names_the_nearest():
    with pytest.raises(ConfigError, match="no FLOPs convention 'ltpp'; did you mean 'ltp'"):
        tiny().dense_flops(np.array([3]), convention="ltpp")
