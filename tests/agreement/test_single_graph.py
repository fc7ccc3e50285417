"""The model as one graph agrees with oracle and model: equal decisions, logits to 1e-4."""

from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cases
import oracle
import tiny
from cases import ASKED, CASES, HEADS, LENGTHS, ORT_TOLERANCE, SETTINGS, TOLERANCE
from exported import pair, single_pair
from magic_pyramid.engine.array_rule import ArrayExitRule
from magic_pyramid.engine.interface import DENSE, Setting
from magic_pyramid.engine.ort_session import OrtGraph
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.export.exit_rule import GraphExitRule
from magic_pyramid.export.graph import BOOL, FLOAT, GraphBuilder, Port
from magic_pyramid.metrics import probabilities
from magic_pyramid.tokenization import EncodedTexts
from test_engine import CRITERIA, threshold_for

BOTH = SETTINGS["both"]
assert_same = partial(cases.assert_same, tolerance=ORT_TOLERANCE)


@pytest.mark.parametrize("name", CASES)
def test_the_graph_agrees_with_the_oracle(name):
    model, engine = single_pair(CASES[name])
    encoded = tiny.encoded(*LENGTHS)
    output = engine.run(encoded, setting=BOTH)
    for row, ids in enumerate(encoded.token_ids):
        logits, exit_layer, history = oracle.run(model, ids, exit_threshold=BOTH.exit_threshold)
        counts = [len(ids), *map(len, history)]
        assert output.exit_layer[row] == exit_layer, f"row {row}"
        assert output.num_tokens[row].tolist() == counts + [0] * (4 - len(counts)), f"row {row}"
        np.testing.assert_allclose(output.logits[row], logits.numpy(), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_graph_agrees_with_the_model(name, setting):
    model, engine = single_pair(CASES[name])
    encoded = tiny.encoded(*LENGTHS, 30, 17, seed=1)
    assert_same(engine.run(encoded, setting=setting), TorchEngine(model).run(encoded, setting=setting))


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("choice", ASKED.values(), ids=ASKED)
def test_the_graph_asks_the_heads_that_the_model_asks(name, choice):
    model, engine = single_pair(CASES[name])
    encoded, setting = tiny.encoded(*LENGTHS, 30, 17, seed=1), replace(BOTH, **choice)
    assert_same(engine.run(encoded, setting=setting), TorchEngine(model).run(encoded, setting=setting))


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_decides_as_in_the_model(name):
    model, engine = single_pair(CRITERIA[name], seed=5)
    encoded = tiny.encoded(*LENGTHS, 20, 7)
    for setting in (Setting(exit_threshold=threshold_for(model, encoded)), Setting()):
        assert_same(engine.run(encoded, setting=setting), TorchEngine(model).run(encoded, setting=setting))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 32), min_size=1, max_size=4),
    seed=st.integers(0, 1000),
    family=st.sampled_from(sorted(tiny.FAMILIES)),
    head=st.sampled_from(["fastbert", "cls", "block"]),
    scale=st.sampled_from([0.0, 0.5, 1.0, 2.5]),
    threshold=st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
)
def test_any_text_agrees_at_any_setting(lengths, seed, family, head, scale, threshold):
    config = tiny.changed(exit={"head": head}).replace(backbone=tiny.FAMILIES[family])
    model, engine = single_pair(config)
    encoded, setting = tiny.encoded(*lengths, seed=seed), Setting(prune_scale=scale, exit_threshold=threshold)
    assert_same(engine.run(encoded, setting=setting), TorchEngine(model).run(encoded, setting=setting))


def test_token_types_reach_the_graph():
    model, engine = single_pair(tiny.CONFIG)
    pairs = EncodedTexts(tiny.token_lists(6), [[0, 0, 0, 1, 1, 1]])
    assert_same(engine.run(pairs, setting=DENSE), TorchEngine(model).run(pairs, setting=DENSE))


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_int8_answers_as_the_int8_segments_do(name):
    """The setting removes no token and lets none leave, so that no tie can hide behind a tolerance."""
    config = tiny.CONFIG.replace(backbone=tiny.FAMILIES[name])
    (_, segments), (_, single) = pair(config, precision="int8"), single_pair(config, precision="int8")
    encoded = tiny.encoded(*LENGTHS)
    one, other = (engine.run(encoded, setting=DENSE, batch_size=1) for engine in (segments, single))
    np.testing.assert_allclose(one.logits, other.logits, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("config", [tiny.CONFIG, tiny.MULTI_LABEL, tiny.REGRESSION])
def test_probabilities_are_those_of_the_logits(config):
    _, engine = single_pair(config)
    ids = np.array(tiny.token_lists(9)[0])
    knobs = {"prune_scale": np.array(1, np.float32), "exit_threshold": np.array(0.5, np.float32)}
    answer = engine._graph.run({"token_ids": ids, "token_type_ids": np.zeros_like(ids), **knobs})
    expected = probabilities(answer["logits"][None], config.problem_type)[0]
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)


def test_no_inputs_give_no_answers():
    _, engine = single_pair(tiny.CONFIG)
    assert engine.run(EncodedTexts([], []), setting=BOTH).logits.shape == (0, 3)


def test_no_weight_lies_deeper_than_one_branch():
    """onnxruntime prepares no weight for a product that lies deeper, which takes half as long again."""
    _, engine = single_pair(tiny.CONFIG)
    graph = onnx.load(engine.path).graph
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    assert weights
    for node in graph.node:
        for branch in branches_of(node):
            deeper = [inner for child in branch.node for inner in branches_of(child)]
            products = {name for inner in deeper for child in inner.node for name in child.input}
            assert not products & weights
            assert not branch.initializer


def branches_of(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


# The exit rule


def rule_graph(config, folder) -> OrtGraph:
    """Logits, a threshold and the memory of the rule, to the decision and the next memory."""
    graph = GraphBuilder()
    rule = GraphExitRule(graph, config, "threshold")
    kinds = rule.memory_kinds()
    memory = tuple(f"memory_{place}" for place in range(len(kinds)))
    leaves, after = rule.test("logits", memory, threshold="threshold")
    ports = [Port("logits", FLOAT, (1, config.num_labels)), Port("threshold", FLOAT, ())]
    ports += [Port(name, *kind) for name, kind in zip(memory, kinds, strict=True)]
    graph.rename(leaves, "leaves")
    outputs = [Port("leaves", BOOL, (1,))]
    for place, (value, kind) in enumerate(zip(after, kinds, strict=True)):
        graph.rename(value, f"after_{place}")
        outputs.append(Port(f"after_{place}", *kind))
    (folder / "rule.onnx").write_bytes(graph.model("rule", ports, outputs).SerializeToString())
    return OrtGraph(folder / "rule.onnx", threads=1)


@pytest.fixture(scope="module")
def rules(tmp_path_factory):
    return {name: rule_graph(config, tmp_path_factory.mktemp("rule")) for name, config in CRITERIA.items()}


@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_rule_in_a_graph_decides_as_the_one_on_arrays(rules, name, data):
    config = CRITERIA[name]
    threshold = data.draw(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0]))
    arrays = ArrayExitRule(config, threshold)
    state = arrays.start(1)
    memory = {"memory_0": state.answer, "memory_1": state.streak}
    for seed in data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=4)):
        generator = np.random.default_rng(seed)
        logits = generator.normal(0, 30 if seed % 2 else 2, (1, config.num_labels)).astype(np.float32)
        expected, state = arrays.test(logits, state, layer=0)
        found = rules[name].run({"logits": logits, "threshold": np.array(threshold, np.float32), **memory})
        assert found["leaves"].tolist() == expected.tolist()
        memory = {f"memory_{place}": found[f"after_{place}"] for place in range(len(found) - 1)}
