"""A suite file is read as it is written, and whatever is wrong with it is said before anything is trained."""

import re
from pathlib import Path

import pytest

from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.presets import find_recipe
from magic_pyramid.reproduce import read_suite
from magic_pyramid.reproduce.suite import suite_of
from suites import suite, write_suite

DATASET = {"name": "reviews", "data": "reviews"}


def found(**changes):
    return suite_of(suite("encoder", **changes))


def test_a_method_may_be_the_name_of_a_preset_alone():
    methods = found().methods
    assert [(method.name, method.preset) for method in methods] == [
        ("bert", "bert"), ("ltp", "ltp"), ("both", "magic_pyramid")
    ]  # fmt: skip
    assert found(methods=[{"name": "ltp", "target_speedup": 2}]).methods[0].preset == "ltp"


def test_a_file_gives_what_its_content_means(tmp_path):
    assert read_suite(write_suite(tmp_path / "s.yaml", suite("encoder"))) == found()


def test_a_suite_goes_through_json():
    assert suite_of(found().to_dict()) == found()


def test_a_misspelt_key_is_named_before_what_is_missing():
    whole = suite("encoder")
    whole["bakbone"] = whole.pop("backbone")
    with pytest.raises(ConfigError, match="Suite has no field 'bakbone'; did you mean 'backbone'"):
        suite_of(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": []}, "Suite has no field 'metods'; did you mean 'methods'?"),
        ({"datasets": []}, "the suite has no dataset; name at least one"),
        ({"methods": []}, "the suite has no method; name at least one"),
        ({"seeds": []}, "the suite has no seed; name at least one"),
        ({"methods": ["ltpp"]}, "methods, ltpp: unknown preset 'ltpp'; did you mean 'ltp'?"),
        ({"methods": ["ltp", "ltp"]}, "methods has 'ltp' twice; give each once"),
        ({"methods": [{"name": "a b", "preset": "ltp"}, {"name": "a_b", "preset": "ltp"}]}, "'a_b' twice"),
        ({"methods": "ltp"}, "methods is 'ltp'; it must be a list"),
        ({"methods": [3]}, "methods[0] is 3; it must be an object"),
        ({"methods": [{"preset": "ltp"}]}, "methods[0].name is missing"),
        ({"methods": [{"name": "ltp/2", "preset": "ltp"}]}, "name is 'ltp/2'; use letters, digits"),
        ({"methods": [{"name": "ltp", "epoch": {}}]}, "methods, ltp: Method has no field 'epoch'; did"),
        ({"datasets": [{**DATASET, "trainrows": 5}]}, "datasets, reviews: Dataset has no field 'trainrows'"),
        ({"datasets": [{**DATASET, "train_rows": "all"}]}, "datasets[0].train_rows is 'all'; it must be"),
        ({"datasets": [{**DATASET, "train_rows": 0}]}, "dataset.train_rows is 0; it must lie in [1,"),
        ({"datasets": [{"name": "reviews"}]}, "datasets[0].data is missing"),
        ({"datasets": [{**DATASET, "test": "tset"}]}, "dataset.test is 'tset'; did you mean 'test'?"),
        ({"datasets": [{**DATASET, "problem_type": "regresion"}]}, "did you mean 'regression'?"),
        ({"datasets": [{**DATASET, "train_max_tokens": "mean"}]}, "give a number of at least 2, or median"),
        ({"datasets": [{**DATASET, "where": ["a"]}]}, "where is ['a']; it must be a mapping"),
        ({"datasets": [DATASET, DATASET]}, "datasets has 'reviews' twice"),
        ({"defaults": {"epochs": {"fintune": 1}}}, "epochs names the stage 'fintune'; did you"),
        ({"defaults": {"epochs": {"finetune": "a"}}}, "epochs.finetune is 'a'; it must lie in"),
        ({"defaults": {"epochs": [1]}}, "epochs is [1]; it must be a mapping"),
        ({"defaults": {"recipe": "papr"}}, "unknown recipe 'papr'; did you mean 'paper'?"),
        ({"thresholds": [2]}, "suite.thresholds is 2.0; it must lie in [0.0, 1.0]"),
        ({"max_drops": [-1]}, "suite.max_drops is -1.0; it must lie in [0.0, 100.0]"),
        ({"max_drops": []}, "max_drops is empty; give at least one number of points"),
        ({"defaults": {"set": {"train.seed": 1}}}, "set names 'train.seed'; say the suite's seeds instead"),
        ({"datasets": [{**DATASET, "set": {"train.epochs": {}}}]}, "set names 'train.epochs'; say epochs"),
        ({"timing": {"threads": 0}}, "timing.threads is 0; it must lie in [1,"),
        ({"teacher": "brt"}, "teacher is 'brt'; did you mean 'bert'?"),
        ({"teacher": "ltp"}, "teacher is 'ltp', which prunes, exits or keeps few layers; name a dense"),
        ({"teacher": "truncated"}, "teacher is 'truncated', which prunes, exits or keeps few layers"),
        ({"shows_text_of": ["review"]}, "shows_text_of names 'review'; did you mean 'reviews'?"),
        ({"name": "a/b"}, "name is 'a/b'; use letters"),
        ({"backbone": 3}, "backbone is 3; it must be a text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        found(**changes)


def test_what_is_wrong_in_a_file_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"s\.yaml: .*did you mean 'ltp'"):
        read_suite(write_suite(tmp_path / "s.yaml", suite("encoder", methods=["ltpp"])))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("name: [", InputError, r"s\.yaml is no YAML: .*line 1"),
        ("- name", ConfigError, r"s\.yaml: a suite is a mapping with name, backbone, datasets and methods"),
        ("", ConfigError, "a suite is a mapping"),
        ("name: a\nseeds: [0]\nname: b\n", ConfigError, r"s\.yaml: 'name' stands twice near line 1; give it"),
        ("timing:\n  rows: 1\n  rows: 2\n", ConfigError, "'rows' stands twice near line 2"),
        ("name: !!python/object:os.system {}", InputError, "no YAML"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, text, kind, message):
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(kind, match=message):
        read_suite(tmp_path / "s.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml cannot be read: No such file"):
        read_suite(tmp_path / "none.yaml")


def settings(**changes):
    whole = found(**changes)
    return whole.settings(whole.datasets[0], whole.methods[0], 5)


def test_the_nearest_word_counts():
    method = {"name": "m", "preset": "ltp", "epochs": {"hard_prune": 4}, "set": {"train.warmup": 0.4}}
    dataset = {**DATASET, "epochs": {"hard_prune": 3, "soft_prune": 3}, "set": {"train.warmup": 0.3}}
    both = settings(methods=[method], datasets=[dataset])
    assert both.config.epochs == {"finetune": 1, "soft_prune": 3, "hard_prune": 4, "distill_exits": 1}
    assert both.config.warmup == 0.4
    assert settings(methods=[{**method, "set": {"model.max_length": 9}}]).model_changes["max_length"] == 9
    assert both.config.seed == 5
    assert both.model_changes["max_length"] == 24
    assert settings(methods=["ltp"], datasets=[dataset]).config.warmup == 0.3


def test_recipes_are_the_methods_then_the_datasets_then_the_suites_then_the_presets():
    assert settings(methods=["pyramid"], defaults={}).config == find_recipe("joint").replace(seed=5)
    paper = find_recipe("paper").replace(seed=5)
    assert settings(methods=["ltp"], defaults={"recipe": "paper"}).config == paper
    assert settings(methods=["ltp"], datasets=[{**DATASET, "recipe": "paper"}], defaults={}).config == paper
    method = {"name": "ltp", "recipe": "paper"}
    assert settings(methods=[method], defaults={"recipe": "default"}).config == paper
    own = find_recipe("deebert").replace(seed=5)
    assert settings(methods=["deebert"], defaults={"recipe": "paper"}).config == own


def test_defaults_reach_the_methods_that_have_the_part():
    assert settings(methods=["bert"]).model_changes == {"max_length": 24}
    assert settings(methods=["ltp"]).model_changes == {"prune.final_threshold": 0.1, "max_length": 24}
    with pytest.raises(ConfigError, match="the preset bert has no prune"):
        settings(methods=[{"name": "bert", "set": {"prune.scale": 1}}])


def test_numbers_that_yaml_takes_for_texts_are_numbers():
    assert settings(defaults={"set": {"train.learning_rate": "1e-3"}}).config.learning_rate == 1e-3


def test_the_teacher_is_trained_even_where_no_table_has_it():
    names = [method.name for method in found(methods=["ltp"]).trained_methods]
    assert names == ["bert", "ltp"]
    renamed = {"name": "dense", "preset": "bert"}
    assert [m.name for m in found(methods=["ltp", renamed], teacher="dense").trained_methods] == [
        "dense",
        "ltp",
    ]


SUITES = sorted((Path(__file__).parents[1] / "benchmarks" / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_every_shipped_suite_can_be_read(path):
    whole = read_suite(path)
    for dataset in whole.datasets:
        for method in whole.trained_methods:
            whole.settings(dataset, method, 0)
