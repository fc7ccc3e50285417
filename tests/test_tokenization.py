import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from magic_pyramid.errors import CheckpointError, ConfigError, InputError
from magic_pyramid.saved_tokenizer import SavedTokenizer
from magic_pyramid.tokenization import EncodedTexts, TextEncoder, evenly_spaced

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "quiet", "lovely", "film", "##s", "bad"]


@pytest.fixture(params=["with token types", "without token types"])
def tokenizer(request):
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (request.param == "with token types")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=names,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


@pytest.fixture
def encoder(tokenizer):
    return TextEncoder(tokenizer)


def test_ids_are_ragged_and_as_the_tokenizer_gives_them(encoder):
    encoded = encoder.encode(["A lovely film", "bäd"], max_length=16)
    assert encoded.token_ids == [[2, 4, 6, 7, 3], [2, 9, 3]]
    assert encoded.token_type_ids == [[0] * 5, [0] * 3]
    assert encoded.lengths == [5, 3]
    assert len(encoded) == 2


def test_pairs_have_token_types_only_where_the_tokenizer_has_them(encoder, tokenizer):
    encoded = encoder.encode([("a film", "bad film")], max_length=16)
    assert encoded.token_ids == [[2, 4, 7, 3, 9, 7, 3]]
    has_types = "token_type_ids" in tokenizer.model_input_names
    assert encoded.token_type_ids == [[0, 0, 0, 0, 1, 1, 1] if has_types else [0] * 7]


@pytest.mark.parametrize("max_length", [5, 6, 8, 64])
def test_truncation_equals_the_hugging_face_call(encoder, tokenizer, max_length):
    texts = [
        "a quiet lovely films",
        "bad",
        ("a quiet lovely films film", "bad films"),
        ("a", "bad bad bad bad bad"),
    ]
    expected = [
        tokenizer(
            *([text] if isinstance(text, str) else text), truncation="longest_first", max_length=max_length
        )
        for text in texts
    ]
    encoded = encoder.encode(texts, max_length=max_length)
    assert encoded.token_ids == [row["input_ids"] for row in expected]
    assert max(encoded.lengths) <= max_length


def test_select_keeps_the_order_that_is_asked_for():
    encoded = EncodedTexts([[1], [2, 2], [3]], [[0], [0, 1], [0]])
    assert encoded.select([2, 1]) == EncodedTexts([[3], [2, 2]], [[0], [0, 1]])


def test_no_texts_give_no_ids(encoder):
    assert len(encoder.encode([], max_length=8)) == 0


def test_more_texts_than_one_chunk_stay_in_order(encoder):
    texts = ["bad " * (1 + i % 3) for i in range(5000)]
    assert encoder.encode(texts, max_length=16).lengths == [3 + i % 3 for i in range(5000)]


def test_threads_with_other_lengths_do_not_disturb_each_other(encoder):
    texts = ["a quiet lovely film " * 10] * 50

    def lengths(max_length):
        return set(encoder.encode(texts, max_length=max_length).lengths)

    wanted = [5 + i % 7 for i in range(100)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lengths, wanted)) == [{length} for length in wanted]


def test_tokens_keep_the_tokenizers_own_signs(encoder):
    ids = encoder.encode(["films"], max_length=8).token_ids[0]
    assert encoder.tokens(ids) == ["[CLS]", "film", "##s", "[SEP]"]


def test_special_ids_are_known(encoder):
    assert (encoder.pad_token_id, encoder.sep_token_id, encoder.vocab_size) == (0, 3, len(WORDS))


def test_a_tokenizer_without_padding_pads_with_zero():
    backend = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    encoder = TextEncoder(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert (encoder.pad_token_id, encoder.sep_token_id) == (0, None)


def test_saved_and_read_again_gives_the_same_ids_and_no_stored_truncation(encoder, tmp_path):
    before = encoder.encode(["a quiet film"], max_length=4)
    encoder.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"] is None
    assert TextEncoder.from_pretrained(tmp_path).encode(["a quiet film"], max_length=4) == before


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_saved_tokenizer_does_the_same_without_transformers(tokenizer, side, tmp_path):
    tokenizer.truncation_side = side
    encoder, texts = TextEncoder(tokenizer), ["a quiet lovely films", ("a film", "bad bad film")]
    encoder.save_pretrained(tmp_path)
    light = TextEncoder.from_export(tmp_path)
    assert isinstance(light._tokenizer, SavedTokenizer)
    for max_length in (5, 16):
        assert light.encode(texts, max_length=max_length) == encoder.encode(texts, max_length=max_length)
    assert (light.pad_token_id, light.sep_token_id) == (encoder.pad_token_id, encoder.sep_token_id)
    assert light.vocab_size == encoder.vocab_size
    assert light.tokens([2, 4, 3]) == encoder.tokens([2, 4, 3])
    light.save_pretrained(tmp_path / "again")
    again = TextEncoder.from_pretrained(tmp_path / "again")
    assert again.encode(texts, max_length=5) == encoder.encode(texts, max_length=5)


def test_a_tokenizer_that_was_not_exported_says_what_it_lacks(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("truncation_side", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json has no '\w+'; export the model again"):
        TextEncoder.from_export(tmp_path)


@pytest.mark.parametrize("wrong", [None, 3, ("a",), ("a", None), ["a", "b"], "\ud800"], ids=repr)
def test_what_is_no_text_is_refused_with_its_place(encoder, wrong):
    with pytest.raises(InputError, match=r"input 1 \(counted from 0\): not a text"):
        encoder.encode(["a", wrong], max_length=8)


def test_one_bare_text_is_refused(encoder):
    with pytest.raises(InputError, match=r"write \[text\]"):
        encoder.encode("a film", max_length=8)


def test_texts_without_a_token_are_refused_all_at_once(encoder):
    with pytest.raises(InputError, match=r"input 1, 3 \(counted from 0\): the tokenizer finds no token"):
        encoder.encode(["a", " ", "a", "\x00"], max_length=8)


def test_long_lists_of_places_are_cut(encoder):
    with pytest.raises(InputError, match="19 and 5 more"):
        encoder.encode([" "] * 25, max_length=8)


@pytest.mark.parametrize(("text", "needed"), [("a", 3), (("a", "a"), 5)])
def test_a_length_without_room_for_the_text_is_refused(encoder, text, needed):
    with pytest.raises(ConfigError, match=f"at least {needed} tokens"):
        encoder.encode([text], max_length=needed - 1)


def test_a_folder_without_a_tokenizer_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no tokenizer; put tokenizer.json"):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("path", ["none", "file"])
def test_a_path_that_is_no_folder_is_refused(tmp_path, path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="is not a folder"):
        TextEncoder.from_pretrained(tmp_path / path)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_cut_file_is_refused_by_name(encoder, tmp_path, file):
    encoder.save_pretrained(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:40])
    with pytest.raises(CheckpointError, match=f"{file} is not valid JSON"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_foreign_tokenizer_file_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match="is not a tokenizer file"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_tokenizer_file_that_cannot_be_built_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unheard"}, "added_tokens": []}')
    with pytest.raises(CheckpointError, match="cannot be read"):
        TextEncoder.from_pretrained(tmp_path)


def test_a_tokenizer_without_a_fast_form_is_refused(tmp_path):
    (tmp_path / "vocab.json").write_text('{"<unk>": 0, "a": 1}')
    (tmp_path / "merges.txt").write_text("")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CTRLTokenizer"}')
    with pytest.raises(CheckpointError, match=r"cannot be read|no fast form"):
        TextEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("size", "count", "places"),
    [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (100, 2, [0, 99]), (1, 4, [0]), (0, 4, [])],
)
def test_places_are_evenly_spaced_over_all_there_are(size, count, places):
    assert evenly_spaced(size, count) == places
