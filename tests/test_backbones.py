import pytest
import torch
import transformers

from magic_pyramid.backbones import (
    FAMILIES,
    backbone_config,
    backbone_problems,
    from_huggingface,
    huggingface_config,
    module_names,
    to_huggingface,
)
from magic_pyramid.config import BackboneConfig
from magic_pyramid.errors import CheckpointError

TINY = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 16,
}


def tiny(model_type="bert", **changes):
    return backbone_config({"model_type": model_type, **TINY, **changes})


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_empty_config_means_what_it_means_to_transformers(model_type):
    theirs = getattr(transformers, f"{FAMILIES[model_type].stem}Config")().to_dict()
    assert backbone_config({"model_type": model_type}) == backbone_config(theirs)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_survives_the_way_there_and_back(model_type):
    ours = backbone_config({"model_type": model_type, "hidden_dropout_prob": 0.2, "dropout": 0.3})
    assert backbone_config(huggingface_config(ours)) == ours


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_written_config_names_the_family_s_classifier(model_type):
    written = huggingface_config(backbone_config({"model_type": model_type}))
    assert hasattr(transformers, written["architectures"][0])
    assert written["model_type"] == model_type


@pytest.mark.parametrize(
    ("model_type", "changes", "field", "value"),
    [
        ("bert", {}, "position_offset", 0),
        ("roberta", {}, "position_offset", 2),
        ("roberta", {"pad_token_id": 4}, "position_offset", 5),
        ("mpnet", {"pad_token_id": 4}, "position_offset", 2),
        ("mpnet", {}, "relative_attention_num_buckets", 32),
        ("mpnet", {}, "type_vocab_size", 0),
        ("distilbert", {}, "type_vocab_size", 0),
        ("electra", {"embedding_size": 4}, "embedding_size", 4),
        ("electra", {"embedding_size": 8}, "embedding_size", None),
        ("bert", {}, "head_act", "tanh"),
        ("electra", {}, "head_act", "gelu"),
        ("distilbert", {}, "head_act", "relu"),
        ("bert", {"hidden_dropout_prob": 0.3}, "classifier_dropout", 0.3),
        ("bert", {"classifier_dropout": 0.4}, "classifier_dropout", 0.4),
        ("bert", {"classifier_dropout": 0}, "classifier_dropout", 0.0),
        ("distilbert", {}, "classifier_dropout", 0.2),
        ("mpnet", {"hidden_dropout_prob": 0.3, "classifier_dropout": 0.4}, "classifier_dropout", 0.3),
        ("bert", {}, "sep_token_id", None),
        ("bert", {"sep_token_id": 7}, "sep_token_id", 7),
        ("bert", {"eos_token_id": 2}, "sep_token_id", 2),
        ("bert", {"eos_token_id": [2, 3]}, "sep_token_id", None),
        ("roberta", {}, "sep_token_id", 2),
        ("bert", {"layer_norm_eps": None}, "layer_norm_eps", 1e-12),
    ],
)
def test_a_field_is_read_as_the_family_means_it(model_type, changes, field, value):
    assert getattr(tiny(model_type, **changes), field) == value


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bart"}, r"model_type is 'bart'.*did you mean 'bert'.*mpnet"),
        ({"model_type": "gpt2"}, "known: bert, roberta, xlm-roberta, camembert, electra, distilbert, mpnet"),
        ({}, "model_type is None"),
        ({"model_type": ["bert"]}, "not supported"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "'relative_key'; only absolute"),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder is True; only encoders"),
        ({"model_type": "bert", "add_cross_attention": True}, "add_cross_attention is True"),
        ({"model_type": "bert", "pruned_heads": {"0": [1]}}, "removed heads"),
        ({"model_type": "bert", "quantization_config": {"bits": 4}}, "full precision"),
        ({"model_type": "bert", "hidden_act": "gelu_nw"}, "hidden_act is 'gelu_nw'; did you mean 'gelu_new'"),
        ({"model_type": "distilbert", "activation": "mish"}, "activation is 'mish'; known: gelu"),
        ({"model_type": "bert", "vocab_size": "many"}, "vocab_size is 'many'; it must be a whole number"),
        ({"model_type": "bert", "num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"model_type": "distilbert", "n_heads": True}, "n_heads is True"),
        ({"model_type": "bert", "hidden_dropout_prob": 1.5}, r"hidden_dropout_prob is 1.5; .*\[0, 1\)"),
        ({"model_type": "bert", "classifier_dropout": "0.1"}, "classifier_dropout is '0.1'"),
        ({"model_type": "mpnet", "relative_attention_num_buckets": 64}, "must be 32"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(config, message):
    with pytest.raises(CheckpointError, match=message):
        backbone_config(config)


def test_all_problems_of_a_config_are_named_at_once():
    with pytest.raises(CheckpointError, match=r"is_decoder.*vocab_size.*hidden_act"):
        tiny(is_decoder=True, vocab_size=-1, hidden_act="mish")


def test_problems_of_our_own_config_are_named():
    shape = {**TINY, "num_hidden_layers": 2}
    config = BackboneConfig(model_type="bert", **{**shape, "vocab_size": 0}, head_act="mish")
    problems = backbone_problems(config)
    assert [problem.split(" is ")[0] for problem in problems] == ["vocab_size", "head_act"]
    assert backbone_problems(tiny("electra", embedding_size=8)) == []


def test_query_key_and_value_are_stacked_in_this_order():
    config = tiny()
    parts = {
        f"encoder.layer.1.attention.self.{name}.bias": torch.full((8,), float(index))
        for index, name in enumerate(("query", "key", "value"))
    }
    translated = from_huggingface(config, dict(reversed(parts.items())))
    assert translated.tensors["layers.1.attention.qkv.bias"].tolist() == [0.0] * 8 + [1.0] * 8 + [2.0] * 8


def test_the_prefix_makes_no_difference():
    config = tiny("roberta")
    bare = {"embeddings.LayerNorm.weight": torch.ones(8), "encoder.layer.0.output.dense.bias": torch.ones(8)}
    prefixed = {f"roberta.{name}": tensor for name, tensor in bare.items()}
    assert from_huggingface(config, bare).tensors == from_huggingface(config, prefixed).tensors
    assert set(from_huggingface(config, bare).tensors) == {
        "embeddings.norm.weight",
        "layers.0.feedforward.down.bias",
    }


def test_old_spellings_of_layer_norm_are_read():
    old = {"bert.embeddings.LayerNorm.gamma": torch.ones(8), "bert.embeddings.LayerNorm.beta": torch.zeros(8)}
    assert set(from_huggingface(tiny(), old).tensors) == {"embeddings.norm.weight", "embeddings.norm.bias"}


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        ("bert", "bert.embeddings.position_ids"),
        ("bert", "cls.predictions.bias"),
        ("roberta", "roberta.pooler.dense.weight"),
        ("roberta", "pooler.dense.bias"),
        ("roberta", "lm_head.dense.weight"),
        ("electra", "discriminator_predictions.dense.weight"),
        ("electra", "generator_lm_head.bias"),
        ("distilbert", "vocab_projector.weight"),
        ("mpnet", "pooler.dense.weight"),
    ],
)
def test_weights_that_no_classifier_needs_are_set_aside(model_type, name):
    translated = from_huggingface(tiny(model_type), {name: torch.ones(8)})
    assert translated.ignored == (name,)
    assert not translated.tensors


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.2.output.dense.weight",
        "adapter.weight",
        "bert.embeddings.word_embeddings.extra",
        "weight",
    ],
)
def test_other_weights_are_unknown(name):
    translated = from_huggingface(tiny(), {name: torch.ones(8)})
    assert translated.unknown == (name,)


def test_a_stack_with_a_part_missing_names_the_part():
    parts = {f"encoder.layer.0.attention.self.{name}.bias": torch.ones(8) for name in ("query", "value")}
    assert from_huggingface(tiny(), parts).incomplete == ("bert.encoder.layer.0.attention.self.key.bias",)


def test_a_stack_whose_parts_differ_in_shape_is_incomplete():
    sizes = {"query": 9, "key": 7, "value": 8}
    parts = {f"encoder.layer.0.attention.self.{name}.bias": torch.ones(size) for name, size in sizes.items()}
    assert len(from_huggingface(tiny(), parts).incomplete) == 3


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_name_is_used_once(model_type):
    theirs = [name for names in module_names(tiny(model_type)).values() for name in names]
    assert len(theirs) == len(set(theirs))


def test_pruner_and_exit_heads_are_left_out_on_the_way_back():
    tensors = {"pruner.delta": torch.ones(2), "exit_heads.0.dense.weight": torch.ones(8, 8)}
    assert to_huggingface(tiny(), tensors) == {}
