import json

import pytest

from magic_pyramid.errors import InputError
from magic_pyramid.report import Trace, TraceLayer
from magic_pyramid.report.palette import LEVELS, ink_on, level, on_dark, on_light, position
from magic_pyramid.report.words import joined, pieces, shortened, whole_word
from report_traces import SHORT, make_trace, many_traces


@pytest.mark.parametrize("name", list(many_traces()))
def test_a_trace_survives_json(name: str) -> None:
    trace = many_traces()[name]
    assert Trace.from_dict(json.loads(json.dumps(trace.to_dict()))) == trace


def test_each_token_is_dropped_once_or_kept_to_the_end() -> None:
    trace = make_trace(SHORT)
    fell, rows = trace.dropped_at(), trace.importance_by_token()
    for token, layer in enumerate(fell):
        assert len(rows[token]) == (trace.num_layers_run if layer is None else layer + 1)
    assert [t for t, layer in enumerate(fell) if layer is None] == trace.layers[-1].kept


def test_the_deepest_tokens_rank_first() -> None:
    trace = make_trace(SHORT)
    ranked = trace.ranked_tokens()
    assert set(ranked[: len(trace.layers[-1].kept)]) == set(trace.layers[-1].kept)
    assert sorted(ranked) == list(range(len(SHORT)))


def test_the_answer_is_said_as_the_problem_type_wants() -> None:
    traces = many_traces()
    assert (traces["short"].answer(), traces["short"].confidence()) == ("positive", "92.0 %")
    assert (traces["multi_label"].answer(), traces["multi_label"].confidence()) == ("joy, surprise", "")
    assert traces["multi_label"].answer([0.1, 0.2, 0.3, 0.4]) == "no label"
    assert traces["regression"].answer() == "5.30"


def test_the_summary_names_where_it_left_and_what_it_cost() -> None:
    traces = many_traces()
    assert (
        traces["short"].summary().startswith("left after layer 4 (5 of 12 layers), 15 → 4 tokens, 0.135 of")
    )
    assert "went through every layer (12 of 12 layers)" in traces["never_left"].summary()
    assert "1 token throughout" in traces["one_token"].summary()


def test_a_costlier_run_is_not_called_a_saving() -> None:
    data = make_trace(SHORT).to_dict()
    factor, words = Trace.from_dict({**data, "gflops": 2.0, "dense_gflops": 1.0}).saving()
    assert factor == "2.00×"
    assert words.startswith("more FLOPs")


def test_a_layer_refuses_importances_of_another_length() -> None:
    with pytest.raises(InputError, match="layer 0 of the trace has 1 importances for 2 arrived"):
        TraceLayer(index=0, arrived=[0, 1], kept=[0], importance=[1.0])


def test_a_layer_refuses_to_keep_what_did_not_arrive() -> None:
    with pytest.raises(InputError, match=r"keeps tokens \[7\] that did not arrive"):
        TraceLayer(index=0, arrived=[0, 1], kept=[0, 7], importance=[1.0, 1.0])


def test_a_trace_needs_every_layer_up_to_the_exit() -> None:
    data = make_trace(SHORT).to_dict()
    with pytest.raises(InputError, match=r"exit_layer 5 of 12 layers; give every layer"):
        Trace.from_dict({**data, "exit_layer": 5})


def test_a_trace_needs_one_probability_per_label() -> None:
    data = make_trace(SHORT).to_dict()
    with pytest.raises(InputError, match="2 probabilities for 1 labels"):
        Trace.from_dict({**data, "labels": ["positive"]})


def test_unknown_and_missing_fields_are_named() -> None:
    data = make_trace(SHORT).to_dict()
    with pytest.raises(InputError, match="no field 'exit_layr'; did you mean 'exit_layer'"):
        Trace.from_dict({**data, "exit_layr": 1})
    del data["tokens"]
    with pytest.raises(InputError, match="Trace lacks tokens"):
        Trace.from_dict(data)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["<s>", "▁out", "stay", "s", "▁its", "</s>"], "<s> outstays its </s>"),
        (["[CLS]", "out", "##look", "[SEP]"], "[CLS] outlook [SEP]"),
        (["<s>", "The", "Ġcaf", "Ã©", "</s>"], "<s> The café </s>"),
        (["hello"], "hello"),
        (["▁", "▁a"], "␣ a"),
    ],
    ids=["sentencepiece", "wordpiece", "bytes", "plain", "blank"],
)
def test_pieces_join_into_words(tokens: list[str], words: str) -> None:
    assert joined(pieces(tokens), range(len(tokens))) == words


def test_gaps_between_pieces_are_marked() -> None:
    assert joined(pieces(["a", "b", "c", "d"]), [0, 1, 3]) == "a b … d"


def test_byte_level_pieces_with_foreign_characters_stay_as_they_are() -> None:
    assert [p.text for p in pieces(["Ġa", "日本"])] == ["a", "日本"]


def test_control_characters_never_reach_a_terminal() -> None:
    assert pieces(["\x1b[31m", "a\nb", "\u202e"]) == pieces(["�[31m", "a�b", "�"])


def test_a_piece_finds_its_word() -> None:
    parts = pieces(["[CLS]", "un", "##believ", "##able", "film"])
    assert whole_word(parts, 2) == (1, "unbelievable")
    assert whole_word(parts, 4) == (4, "film")
    assert not parts[0].is_wordlike
    assert shortened("unbelievable", 5) == "unbe…"


def test_more_importance_is_a_higher_level_and_a_darker_colour() -> None:
    masses = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 100.0]
    levels = [level(mass) for mass in masses]
    assert levels == sorted(levels)
    assert (levels[0], levels[-1]) == (0, LEVELS - 1)
    assert position(1.0) == pytest.approx(0.4)
    assert on_light(0.0) > on_light(1.0)
    assert on_dark(0.0) < on_dark(1.0)
    assert on_light(1.5) == on_light(1.0)
    assert ink_on(on_light(0.0)) != ink_on(on_light(1.0))
