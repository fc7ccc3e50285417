"""Every method is a row of configs."""

import pytest

import tiny
from magic_pyramid.config import ExitConfig, PruneConfig, TrainConfig
from magic_pyramid.errors import ConfigError
from magic_pyramid.presets import PAPER, PRESETS, RECIPES, apply_preset, find_preset, find_recipe


def test_every_method_is_there():
    parts = {
        name: (preset.prune is not None, preset.exit is not None, preset.final_head)
        for name, preset in PRESETS.items()
    }
    assert parts == {
        "bert": (False, False, "cls"),
        "ltp": (True, False, "cls"),
        "fastbert": (False, True, "fastbert"),
        "magic_pyramid": (True, True, "cls"),
        "deebert": (False, True, "cls"),
        "pabee": (False, True, "cls"),
        "truncated": (False, False, "cls"),
        "distilbert": (False, False, "cls"),
        "pyramid": (True, True, "cls"),
        "top": (True, False, "cls"),
        "power_bert": (True, False, "cls"),
        "spatten": (True, False, "cls"),
        "ltp_topk": (True, False, "cls"),
    }


def test_presets_have_recipes_that_fit_what_they_learn():
    recipes = {name: preset.recipe for name, preset in PRESETS.items() if preset.recipe != "default"}
    assert recipes == {
        "pyramid": "joint",
        **{name: name for name in ("deebert", "pabee", "truncated", "distilbert", "top", "power_bert")},
        "spatten": "scheduled",
        "ltp_topk": "scheduled",
    }
    for preset in PRESETS.values():
        recipe = find_recipe(preset.recipe)
        softens = preset.prune is not None and preset.prune.softens
        assert softens or preset.recipe == "default" or recipe.epochs_of("soft_prune") == 0
        assert preset.prune is None or not preset.prune.needs_budget or recipe.target_speedup is not None


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_what_it_is_and_makes_a_model(name):
    assert PRESETS[name].summary
    find_recipe(PRESETS[name].recipe)
    config = apply_preset(tiny.PLAIN, PRESETS[name])
    assert (config.prune, config.exit) == (PRESETS[name].prune, PRESETS[name].exit)
    assert config.labels == tiny.PLAIN.labels
    tiny.build(config)


def test_a_preset_replaces_what_the_model_had():
    assert apply_preset(tiny.CONFIG, PRESETS["bert"]) == tiny.PLAIN


@pytest.mark.parametrize("name", PRESETS)
def test_regression_leaves_by_patience(name):
    plain = tiny.REGRESSION.replace(exit=None, prune=None)
    config = apply_preset(plain, PRESETS[name])
    assert config.exit is None or config.exit.criterion == "patience"


def test_multi_label_keeps_the_criterion():
    config = apply_preset(tiny.MULTI_LABEL.replace(exit=None), PRESETS["magic_pyramid"])
    assert config.exit == ExitConfig()
    assert config.prune == PruneConfig()


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown preset 'magic-pyramid'; did you mean 'magic_pyramid'\?"):
        find_preset("magic-pyramid")
    assert find_preset("ltp") is PRESETS["ltp"]


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown recipe 'paper-mrcp'; did you mean 'paper-mrpc'\?"):
        find_recipe("paper-mrcp")
    assert find_recipe("default") == TrainConfig()


@pytest.mark.parametrize(
    ("name", "epochs", "batch"),
    [
        ("paper-ag_news", (3, 1, 2, 2), 64),
        ("paper-yelp_polarity", (3, 1, 2, 2), 64),
        ("paper-qqp", (5, 2, 5, 5), 32),
        ("paper-mrpc", (10, 10, 5, 5), 32),
        ("paper-rte", (10, 10, 5, 5), 32),
    ],
)
def test_recipes_have_the_epochs_and_batches_of_the_paper(name, epochs, batch):
    recipe = RECIPES[name]
    stages = ("finetune", "soft_prune", "hard_prune", "distill_exits")
    assert tuple(recipe.epochs_of(stage) for stage in stages) == epochs
    assert recipe.max_sequences_per_batch == batch
    assert recipe.learning_rate == 2e-5


def test_the_paper_trains_exits_last_and_from_labels_before():
    assert (PAPER.joint_exits, PAPER.distill_weight, PAPER.min_steps) == (0.0, 0.0, 0)
