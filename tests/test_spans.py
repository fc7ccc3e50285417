"""Answers by hand: SQuAD's scores, windows and their characters, the best spans against all of them."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import qa
import tiny
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.spans import NO_ANSWER, Answer, Window, exact_match, f1_score, read_question
from magic_pyramid.spans.answers import normalised
from magic_pyramid.spans.windows import tokens_of
from magic_pyramid.tokenization import TextEncoder

ENCODER = TextEncoder(tiny.tokenizer())


def windows_of(pairs, *, encoder=ENCODER, max_length=16, max_question_length=6, stride=2):
    return encoder.encode_windows(
        pairs, max_length=max_length, max_question_length=max_question_length, stride=stride
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver Broncos!", "denver broncos"),
        ("an apple, a day", "apple day"),
        ("theatre", "theatre"),
        ("U.S.", "us"),
        ("24–10", "24–10"),
        ("a", ""),
    ],
)
def test_answers_are_compared_as_squad_compares_them(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("given", "answers", "em", "f1"),
    [
        ("Denver Broncos", ["the Denver Broncos."], 1.0, 1.0),
        ("Denver", ["Denver Broncos", "Carolina"], 0.0, 2 / 3),
        ("the team of Denver Broncos", ["Denver Broncos"], 0.0, 2 * 2 / (4 + 2)),
        ("very very good", ["very good good"], 0.0, 2 * 2 / (3 + 3)),
        ("Carolina", ["Denver"], 0.0, 0.0),
        ("", [], 1.0, 1.0),
        ("Denver", [], 0.0, 0.0),
        ("", ["Denver"], 0.0, 0.0),
        ("the", ["a", "Denver"], 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_by_hand(given, answers, em, f1):
    assert exact_match(given, answers) == em
    assert f1_score(given, answers) == pytest.approx(f1)


def test_every_token_of_a_context_is_in_a_window_and_neighbours_share_the_stride():
    encoded, windows = windows_of([("was the actor good", qa.CONTEXT)])
    words = qa.CONTEXT.split()
    seen = [[window.context[start:end] for start, end in window.offsets] for window in windows]
    # 16 places less [CLS], 4 words of the question and two [SEP].
    assert [len(part) for part in seen] == [9, 9, 5]
    assert seen[0] == words[:9]
    assert seen[1] == words[7:16]
    assert seen[2] == words[14:]
    assert all(window.question == 0 for window in windows)
    for ids, types, window in zip(encoded.token_ids, encoded.token_type_ids, windows, strict=True):
        assert window.first == 6
        assert types[window.first - 1] == 0
        assert types[window.first] == 1
        pieces = ENCODER.tokens(ids)[window.first : window.first + len(window.offsets)]
        assert pieces == [window.context[start:end] for start, end in window.offsets]


def test_a_long_question_leaves_half_of_the_window():
    _, (window, *_) = windows_of(
        [("is the film not very very very very bad", "a film")], max_question_length=99
    )
    # 16 places less [CLS] and two [SEP]: 13, of which the question gets 6.
    assert window.first == 8


def test_a_stride_is_at_most_half_of_what_a_window_has_of_the_context():
    _, windows = windows_of([("was the actor good", qa.CONTEXT)], stride=1000)
    starts = [window.offsets[0][0] for window in windows]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize(
    "context",
    [
        "Füße  und Übermut: naïve cafés.",
        "e\u0301tude  de Beyonce\u0301,\tParis",
        "  leading and trailing  ",
        "日本 and 中国 in one",
        "emoji 🙂 then text",
    ],
)
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_offsets_lead_back_to_the_characters(context, kind):
    encoder = TextEncoder(_trained(kind))
    words = context.split()
    for word in words:
        start = context.index(word)
        _, windows = windows_of([("und", context)], encoder=encoder, max_length=64)
        (window,) = windows
        first, last = tokens_of(Answer(word, start), window.offsets)
        found = context[window.offsets[first][0] : window.offsets[last][1]]
        assert found.strip() == word


def _trained(kind):
    """Tokenizers of three families, of single characters mostly, so that all offsets are exercised."""
    if kind == "bert":
        pieces = sorted(
            {piece for char in "abcdefghijklmnoprstuvwy.,:日本中国🙂" for piece in (char, f"##{char}")}
        )
        backend = Tokenizer(
            models.WordPiece({p: i for i, p in enumerate([*tiny.SPECIAL, *pieces])}, unk_token="[UNK]")
        )
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif kind == "roberta":
        pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE({p: i for i, p in enumerate([*tiny.SPECIAL, *pieces])}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        pieces = [
            ("<unk>", 0.0),
            ("▁", -2.0),
            *((f"▁{c}", -3.0) for c in "abcdeilnotu"),
            *((c, -4.0) for c in "abcdefghiklmnoprstuvxy.,:"),
        ]
        backend = Tokenizer(models.Unigram([*((s, 0.0) for s in tiny.SPECIAL), *pieces], unk_id=1))
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("\t", " ")])
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def test_an_answer_is_a_target_only_where_all_of_it_is_in_the_window():
    _, windows = windows_of([("was the actor good", qa.CONTEXT)])
    answer = Answer("scene is very", qa.CONTEXT.index("scene"))
    targets = [
        Window(
            question=0, context=qa.CONTEXT, first=window.first, offsets=window.offsets, answers=(answer,)
        ).target
        for window in windows
    ]
    assert targets == [NO_ANSWER, (6 + 5, 6 + 7), NO_ANSWER]


def test_a_question_without_answer_has_the_first_token_as_target():
    assert Window(question=0, context="a", first=3, offsets=((0, 1),), answers=()).target == NO_ANSWER


def all_spans(window, logits, *, longest):
    """Every span of a window, in plain loops."""
    found = {}
    for first in range(len(window.offsets)):
        for last in range(first, min(len(window.offsets), first + longest)):
            key = window.offsets[first][0], window.offsets[last][1]
            found[key] = float(logits[0, window.first + first]) + float(logits[1, window.first + last])
    return found


@pytest.mark.parametrize("longest", [1, 3, 50])
@pytest.mark.parametrize("count", [1, 4, 1000])
def test_the_best_spans_over_all_windows_are_the_best_of_all_spans(count, longest):
    generator = np.random.default_rng(count + longest)
    _, windows = windows_of([("was the actor good", qa.CONTEXT)])
    logits = [generator.normal(size=(2, 20)).astype(np.float32) for _ in windows]

    reading = read_question(list(zip(windows, logits, strict=True)), max_answer_length=longest, count=count)

    best: dict[tuple[int, int], float] = {}
    for window, values in zip(windows, logits, strict=True):
        for key, score in all_spans(window, values, longest=longest).items():
            best[key] = max(score, best.get(key, -np.inf))
    expected = sorted(best.items(), key=lambda item: (-item[1], item[0]))[:count]
    assert [(span.start, span.end) for span in reading.spans] == [key for key, _ in expected]
    np.testing.assert_allclose([span.score for span in reading.spans], [score for _, score in expected])
    assert all(span.text == qa.CONTEXT[span.start : span.end] for span in reading.spans)
    assert reading.none.score == pytest.approx(min(float(v[0, 0]) + float(v[1, 0]) for v in logits))


def test_probabilities_are_over_the_context_and_the_first_token():
    window = Window(question=0, context="a b", first=3, offsets=((0, 1), (2, 3)))
    logits = np.log(np.array([[1, 99, 99, 2, 5, 99], [2, 99, 99, 3, 5, 99]], dtype=np.float32))
    reading = read_question([(window, logits)], max_answer_length=2, count=9)
    assert {span.text: round(span.probability, 6) for span in reading.spans} == {
        "b": round(5 / 8 * 5 / 10, 6),
        "a b": round(2 / 8 * 5 / 10, 6),
        "a": round(2 / 8 * 3 / 10, 6),
    }
    assert reading.none.probability == pytest.approx(1 / 8 * 2 / 10)


def test_the_threshold_says_when_there_is_no_answer():
    window = Window(question=0, context="a b", first=3, offsets=((0, 1), (2, 3)))
    logits = np.array([[2.0, 0, 0, 1.0, 0.0, 0], [2.0, 0, 0, 1.0, 0.0, 0]], dtype=np.float32)
    reading = read_question([(window, logits)], max_answer_length=1, count=2)
    texts = {limit: [span.text for span in reading.answers(limit)] for limit in (None, 0.0, 2.0, 4.0)}
    assert texts == {None: ["a", "b"], 0.0: ["", "a", "b"], 2.0: ["a", "", "b"], 4.0: ["a", "b", ""]}
    assert [reading.has_answer(limit) for limit in (None, 1.9, 2.0)] == [True, False, True]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["alone"], "input 0 .*give a question and its context"),
        ([("a", "b"), (" ", "film")], "input 1 .*no token in the question"),
        ([("a", "")], "input 0 .*no token in the context"),
        ([("a", 3)], "input 0 .*not a text"),
    ],
)
def test_unusable_pairs_are_named(pairs, message):
    with pytest.raises(InputError, match=message):
        windows_of(pairs)


def test_a_window_needs_room():
    with pytest.raises(ConfigError, match="max_length is 4; a pair needs at least 5"):
        windows_of([("a", "film")], max_length=4)
