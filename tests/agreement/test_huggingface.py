"""Our dense model equals transformers' own, and a checkpoint survives the way to our names and back."""

import pytest
import torch
import transformers
from safetensors.torch import load_file

from magic_pyramid.checkpoint import load_model, to_huggingface
from magic_pyramid.packing import pack, unpack

TOLERANCE = 1e-5
LENGTHS = (9, 1, 17, 4)

SHAPE = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 30,
    "num_labels": 3,
}
DISTILBERT_SHAPE = {
    "vocab_size": 40,
    "dim": 16,
    "n_layers": 3,
    "n_heads": 2,
    "hidden_dim": 24,
    "max_position_embeddings": 30,
    "num_labels": 3,
}
FAMILIES = {
    "bert": ("Bert", SHAPE),
    "bert-gelu_new": ("Bert", {**SHAPE, "hidden_act": "gelu_new", "pad_token_id": 1, "eos_token_id": 2}),
    "roberta": ("Roberta", {**SHAPE, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta-pad-3": ("Roberta", {**SHAPE, "pad_token_id": 3}),
    "xlm-roberta": ("XLMRoberta", SHAPE),
    "camembert": ("Camembert", SHAPE),
    "electra": ("Electra", {**SHAPE, "embedding_size": 8}),
    "electra-same-width": ("Electra", {**SHAPE, "embedding_size": 16}),
    "distilbert": ("DistilBert", DISTILBERT_SHAPE),
    "mpnet": ("MPNet", SHAPE),
}


def build(name, **changes):
    """A small model with random weights large enough for attention to matter, biases and norms included."""
    stem, shape = FAMILIES[name]
    config = getattr(transformers, f"{stem}Config")(**{**shape, **changes})
    generator = torch.Generator().manual_seed(7)
    model = getattr(transformers, f"{stem}ForSequenceClassification")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def ragged_inputs(model, *, padding_side="right", lengths=LENGTHS):
    """Padded ids, mask, and token types of pairs where the family has two types."""
    generator = torch.Generator().manual_seed(3)
    pad = model.config.pad_token_id
    ids = torch.full((len(lengths), max(lengths)), pad)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(0, length) if padding_side == "right" else slice(max(lengths) - length, None)
        ids[row, place] = torch.randint(5, 40, (length,), generator=generator)
        mask[row, place] = 1
        types[row, place] = (torch.arange(length) > length // 2).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = types
    return inputs


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_and_hidden_states_equal_transformers(name, tmp_path):
    theirs = build(name)
    theirs.save_pretrained(tmp_path)
    inputs = ragged_inputs(theirs)
    ours = load_model(tmp_path).model
    batch = pack(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        token_type_ids=inputs.get("token_type_ids"),
    )

    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True)
        state = ours.begin(batch)
        hidden_states = [state.hidden_states]
        for layer in range(ours.config.backbone.num_hidden_layers):
            state = ours.keep_all(state, layer)
            hidden_states.append(state.hidden_states)
        logits = ours(batch).logits

    torch.testing.assert_close(logits, expected.logits, atol=TOLERANCE, rtol=TOLERANCE)
    mask = inputs["attention_mask"].bool()
    assert len(hidden_states) == len(expected.hidden_states)
    for ours_at, theirs_at in zip(hidden_states, expected.hidden_states, strict=True):
        padded = unpack(ours_at, batch, length=mask.shape[1])
        torch.testing.assert_close(padded[mask], theirs_at[mask], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_checkpoint_survives_the_way_there_and_back(name, tmp_path):
    theirs = build(name)
    theirs.save_pretrained(tmp_path / "theirs")

    to_huggingface(load_model(tmp_path / "theirs").model, tmp_path / "back", encoder=None)

    before = load_file(tmp_path / "theirs" / "model.safetensors")
    after = load_file(tmp_path / "back" / "model.safetensors")
    assert sorted(after) == sorted(before)
    for key in before:
        assert torch.equal(after[key], before[key]), key
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "back").eval()
    inputs = ragged_inputs(theirs)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, theirs(**inputs).logits)
    assert type(again) is type(theirs)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_config_survives_the_way_there_and_back(name, tmp_path):
    theirs = build(
        name, id2label={0: "bad", 1: "so-so", 2: "good"}, label2id={"bad": 0, "so-so": 1, "good": 2}
    )
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_model(tmp_path / "theirs").model

    to_huggingface(loaded, tmp_path / "back", encoder=None)

    assert load_model(tmp_path / "back").model.config == loaded.config
    assert loaded.config.labels == ("bad", "so-so", "good")


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "distilbert", "mpnet"])
def test_an_encoder_without_a_head_loads_with_the_same_hidden_states(name, tmp_path):
    whole = build(name)
    base = whole.base_model
    base.save_pretrained(tmp_path)

    loaded = load_model(tmp_path)

    new = set(loaded.info["new_parameters"])
    dense = {"final_head.dense.weight", "final_head.dense.bias"}
    output = {"final_head.output.weight", "final_head.output.bias"}
    # BertModel saves the pooler that its classifier uses.
    assert new == (output if name == "bert" else dense | output)
    inputs = ragged_inputs(whole)
    batch = pack(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        token_type_ids=inputs.get("token_type_ids"),
    )
    with torch.no_grad():
        expected = base(**inputs).last_hidden_state[inputs["attention_mask"].bool()]
        state = loaded.model.begin(batch)
        for layer in range(3):
            state = loaded.model.keep_all(state, layer)
    torch.testing.assert_close(state.hidden_states, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize(
    "architecture",
    [
        "BertForMaskedLM",
        "BertForPreTraining",
        "RobertaForMaskedLM",
        "ElectraForMaskedLM",
        "ElectraForPreTraining",
        "DistilBertForMaskedLM",
        "MPNetForMaskedLM",
        "RobertaForTokenClassification",
    ],
)
def test_weights_of_other_heads_are_left_aside(architecture, tmp_path):
    stem = architecture.partition("For")[0]
    shape = DISTILBERT_SHAPE if stem == "DistilBert" else SHAPE
    config = getattr(transformers, f"{stem}Config")(**shape)
    getattr(transformers, architecture)(config).save_pretrained(tmp_path)

    info = load_model(tmp_path).info

    assert info["ignored"]
    assert {name.partition(".")[0] for name in info["new_parameters"]} == {"final_head"}


def test_a_sharded_checkpoint_equals_the_whole_one(tmp_path):
    theirs = build("roberta")
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()

    whole, shards = (load_model(tmp_path / name).model.state_dict() for name in ("whole", "shards"))

    assert all(torch.equal(whole[name], shards[name]) for name in whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_load_as_fp32(dtype, tmp_path):
    theirs = build("bert").to(dtype)
    theirs.save_pretrained(tmp_path)

    ours = load_model(tmp_path).model

    assert {tensor.dtype for tensor in ours.state_dict().values()} == {torch.float32}
    assert torch.equal(ours.embeddings.token.weight, theirs.bert.embeddings.word_embeddings.weight.float())


def test_left_padding_gives_the_same_logits_as_no_padding(tmp_path):
    theirs = build("bert")
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path).model
    padded = ragged_inputs(theirs, padding_side="left")
    batch = pack(
        padded["input_ids"], attention_mask=padded["attention_mask"], token_type_ids=padded["token_type_ids"]
    )

    with torch.no_grad():
        logits = ours(batch).logits
        for row, length in enumerate(LENGTHS):
            alone = {key: value[row : row + 1, -length:] for key, value in padded.items()}
            torch.testing.assert_close(
                logits[row : row + 1], theirs(**alone).logits, atol=TOLERANCE, rtol=TOLERANCE
            )
