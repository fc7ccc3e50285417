"""From outcomes to a certified setting: what is tried, in which order, and what is written down."""

from dataclasses import replace

import numpy as np
import pytest

import tiny
from magic_pyramid.certify import Certificate, Goal, certify, fit_temperatures, outcomes_of, stored_speed
from magic_pyramid.certify.certificate import setting_of
from magic_pyramid.certify.frontier import Candidate, candidates, safest_first, tally
from magic_pyramid.certify.outcomes import NOT_ASKED, Outcomes, answers_of, wanted_answers
from magic_pyramid.certify.search import FASTEST_MULTIPLE, choose, halves
from magic_pyramid.engine.interface import Setting, flops_of
from magic_pyramid.engine.torch_engine import TorchEngine
from magic_pyramid.errors import ConfigError, InputError
from magic_pyramid.sweep import simulate
from populations import treacherous, typical

ENCODED = tiny.encoded(*(9, 2, 14, 9, 1, 5, 20, 7, 11, 3) * 3, seed=1)
CONFIGS = {
    "entropy": tiny.CONFIG,
    "one exit": tiny.changed(exit={"layers": (1,)}),
    "no exits": tiny.CONFIG.replace(exit=None),
    "patience": tiny.changed(exit={"criterion": "patience", "patience": 2}),
    "multi-label": tiny.MULTI_LABEL,
}
POPULATION = typical()


def drawn(rows, *, seed=0):
    population = POPULATION.draw(np.random.default_rng(seed), rows)
    return {0.0: population.outcomes}, population.dense_right


def config_of(heads):
    """A model with as many exit heads as the outcomes."""
    backbone = tiny.BACKBONE.replace(num_hidden_layers=heads + 1)
    return tiny.CONFIG.replace(backbone=backbone, prune=None)


def skewed():
    """Prune scale 0.5 loses 1 % of the search half; scale 1 loses and wins more, 0.9 % by balance."""
    search, test = halves(2000, 0)
    dense_right = np.ones(2000, dtype=bool)
    dense_right[np.concatenate([search[:100], test[:100]])] = False
    right = {scale: dense_right.copy() for scale in (0.0, 0.5, 1.0)}
    right[0.5][search[-10:]] = False
    for rows, lost, won in ((search, 20, 11), (test, 20, 13)):
        right[1.0][rows[-lost:]] = False
        right[1.0][rows[:won]] = True
    outcomes = {
        scale: Outcomes(
            unsure=np.zeros((2000, 0), np.float32),
            is_right=answers[:, None],
            flops=np.full((2000, 1), 3.0 - 2.0 * scale),
            head_flops=np.zeros((2000, 0)),
            kept_tokens=np.ones((2000, 1), dtype=np.int64),
        )
        for scale, answers in right.items()
    }
    return outcomes, dense_right


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("thresholds", [(0.0, 0.0), (0.5, 0.5), (0.7, 0.7), (0.3, 0.9), (NOT_ASKED, 0.8)])
def test_outcomes_are_those_of_the_engine(name, thresholds):
    config = CONFIGS[name]
    engine, thresholds = TorchEngine(tiny.build(config, seed=3)), thresholds[: len(config.exit_layers)]
    if name == "patience" and NOT_ASKED in thresholds:
        pytest.skip("patience asks every head")
    answers = engine.answer_all_heads(ENCODED, scale=1.0)
    wanted = answers_of(answers.logits[2], config.problem_type)
    outcomes = outcomes_of(config, answers, wanted)
    asked = {str(layer): tau for layer, tau in zip(config.exit_layers, thresholds, strict=True) if tau >= 0}
    setting = setting_of(config, 1.0, asked)
    expected = engine.run(ENCODED, setting=setting)
    places = outcomes.places(thresholds)
    layers = np.array([*config.exit_layers, 2])[places]
    assert layers.tolist() == expected.exit_layer.tolist()
    np.testing.assert_allclose(outcomes.flops_at(places, thresholds), flops_of(config, expected, setting))
    right = (answers_of(expected.logits, config.problem_type) == wanted).all(axis=1)
    assert outcomes.right_at(places).tolist() == right.tolist()
    kept = expected.num_tokens[np.arange(len(layers)), layers + 1]
    assert outcomes.kept_tokens[np.arange(len(layers)), places].tolist() == kept.tolist()


def test_every_patience_is_a_candidate():
    """Few values that many texts share, and none of few digits: a level below one would pass it over."""
    heads, texts = 8, 400
    streaks = np.tile(np.arange(1, heads + 1), (texts, 1))
    outcomes = Outcomes(
        unsure=(1 / (streaks + 0.5)).astype(np.float32),
        is_right=np.ones((texts, heads + 1), dtype=bool),
        flops=np.tile(np.arange(1.0, heads + 2), (texts, 1)),
        head_flops=np.zeros((texts, heads)),
        kept_tokens=np.ones((texts, heads + 1), dtype=np.int64),
    )
    found = candidates({0.0: outcomes}, np.ones(texts, dtype=bool), per_layer=False)
    assert {item.flops for item in found} == set(range(1, heads + 2))


def test_the_path_goes_from_dear_and_safe_to_cheap_and_risky():
    outcomes, right = drawn(2000)
    path = safest_first(candidates(outcomes, right, per_layer=True))
    assert [item.flops for item in path] == sorted((item.flops for item in path), reverse=True)
    assert [item.caution for item in path] == sorted(item.caution for item in path)
    assert path[0].lost == path[0].won == 0


def test_thresholds_of_their_own_save_more_where_heads_differ():
    outcomes, right = drawn(4000)
    unsure = outcomes[0.0].unsure * np.array([0.3, 1.0, 0.6], np.float32)
    outcomes = {0.0: replace(outcomes[0.0], unsure=unsure)}
    found = {
        per_layer: min(
            (item for item in candidates(outcomes, right, per_layer=per_layer) if item.drop <= 0.01),
            key=lambda item: item.flops,
        ).flops
        for per_layer in (False, True)
    }
    assert found[True] < found[False]


def test_the_last_setting_before_the_first_failure_is_taken():
    """Not the first that fails, and none behind it that passes again."""
    outcomes, right = drawn(3000)
    choice = choose(outcomes, right, Goal(value=2.0))
    levels = [p <= 0.05 for p in choice.p_values.values()]
    assert levels == [True] * (len(levels) - 1) + [False]
    assert choice.chosen == list(choice.p_values)[-2]


def test_a_setting_that_loses_too_much_on_the_search_half_is_passed_over_and_keeps_no_p_value():
    """Cheaper settings behind it may lose less, with less certainty; p-values are those of their settings."""
    outcomes, right = skewed()
    goal = Goal(value=1.0)
    choice = choose(outcomes, right, goal)
    search, _ = halves(len(right), goal.seed)
    drops = {
        item: tally(item, outcomes[item.prune_scale].select(search), right[search]).drop
        for item in choice.path
    }
    skipped = [item for item in choice.path if drops[item] >= 0.01]
    assert any(choice.path.index(item) < choice.path.index(list(choice.p_values)[-1]) for item in skipped)
    assert not set(skipped) & set(choice.p_values)
    found = certify(CONFIGS["no exits"], outcomes, right, goal)
    tested = {point.p_value for point in found.curve} - {None}
    assert tested == set(choice.p_values.values())
    assert found.rows_needed is not None


def test_only_the_second_half_tests():
    outcomes, right = drawn(3000)
    search, test = halves(3000, 0)
    assert sorted([*search, *test]) == list(range(3000))
    changed = right.copy()
    worse = outcomes[0.0].is_right.copy()
    worse[test, :-1] = ~changed[test, None]
    choice = choose({0.0: replace(outcomes[0.0], is_right=worse)}, right, Goal(value=2.0))
    assert choice.path == choose(outcomes, right, Goal(value=2.0)).path
    assert choice.chosen is None


def test_a_certificate_holds_its_speeds_in_order_and_comes_back_from_json():
    outcomes, right = drawn(3000)
    config = config_of(3)
    found = certify(config, outcomes, right, Goal(value=2.0))
    certified, balanced, fastest = found.speeds
    assert found.is_certified
    assert found.drop_bound == 2.0
    assert 1 < certified.flops_speedup <= balanced.flops_speedup <= fastest.flops_speedup
    assert balanced.drop <= 2.0 or balanced.replace(name="certified", is_certified=True) == certified
    assert fastest.drop <= 2.0 * FASTEST_MULTIPLE
    assert next(p for p in found.curve if p.is_certified).flops_speedup == certified.flops_speedup
    assert sum(certified.exit_counts) == sum(certified.kept_counts) == found.num_rows == 3000
    assert Certificate.from_dict(found.to_dict()) == found
    excerpt = found.excerpt(4)
    assert 4 <= len(excerpt) <= 6
    assert excerpt[0] == found.curve[0]
    assert any(point.is_certified for point in excerpt)
    assert any(point.p_value is not None and point.p_value > 0.05 for point in excerpt)
    assert "With 95 % confidence the certified setting loses at most 2 points" in found.sentence()
    assert stored_speed({"calibration": {"certificate": found.to_dict()}}, "balanced") == balanced


def test_where_nothing_is_certified_the_dense_model_is_and_the_rows_needed_are_said():
    population = treacherous(0.004).draw(np.random.default_rng(0), 1300)
    found = certify(config_of(2), {0.0: population.outcomes}, population.dense_right, Goal(value=0.5))
    assert not found.is_certified
    assert found.speed("certified").setting(config_of(2)) == Setting(prune_scale=0.0)
    assert found.speed("certified").flops_speedup == 1.0
    assert found.sentence().startswith("No setting can be certified to lose at most 0.5 points")
    kept = found.replace(rows_needed=5000)
    assert kept.sentence().endswith("on 1,300 rows. About 5,000 rows would be needed.")


def test_too_few_rows_are_refused_with_the_number_that_is_needed():
    outcomes, right = drawn(300)
    message = (
        r"300 rows cannot certify a drop of at most 0\.5 points with 95 % confidence.*at least 1,198 rows"
    )
    with pytest.raises(InputError, match=message):
        choose(outcomes, right, Goal(value=0.5))
    with pytest.raises(InputError, match=r"at least 1,196 rows"):
        choose(outcomes, right, Goal(value=0.5, is_labelled=False))


def test_a_target_speedup_reports_what_it_loses_at_most():
    outcomes, right = drawn(3000)
    found = certify(config_of(3), outcomes, right, Goal(kind="target_speedup", value=1.3))
    certified = found.speed("certified")
    assert certified.flops_speedup > 1.25
    assert certified.drop < found.drop_bound < 20
    with pytest.raises(ConfigError, match=r"no setting saves 99x the FLOPs; the fastest saves \d"):
        certify(config_of(3), outcomes, right, Goal(kind="target_speedup", value=99.0))


def test_a_target_latency_takes_the_safest_setting_that_is_fast_enough():
    outcomes, right = drawn(3000)

    def latency(candidate: Candidate) -> float:
        return tally(candidate, outcomes[0.0], right).flops

    goal = Goal(kind="target_latency_ms", value=3.0)
    choice = choose(outcomes, right, goal, latency=latency)
    place = choice.path.index(choice.chosen)
    assert latency(choice.chosen) == choice.latency_ms <= 3.0
    assert latency(choice.path[place - 1]) > 3.0
    with pytest.raises(ConfigError, match=r"no setting answers a text in 0\.1 ms here; the fastest takes"):
        choose(outcomes, right, replace(goal, value=0.1), latency=latency)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "target_speedup", "value": 1.0}, "target_speedup is 1; give a factor above 1"),
        ({"kind": "target_latency_ms", "value": 0.0}, "target_latency_ms is 0; give milliseconds above 0"),
        ({"value": 0.0}, "max_drop is 0 points"),
    ],
)
def test_impossible_goals_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Goal(**options)


def test_a_regression_is_refused():
    with pytest.raises(ConfigError, match="a regression has no answers that are right or wrong"):
        answers_of(np.zeros((2, 1), np.float32), "regression")


def test_an_export_that_left_heads_out_refuses_a_speed_that_asks_them():
    with pytest.raises(ConfigError, match=r"this speed asks the exit heads after the layers \[0, 1\]"):
        setting_of(tiny.changed(exit={"layers": (1,)}), 1.0, {"0": 0.3, "1": 0.3})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fast", "speed is 'fast'; did you mean 'fastest'"),
        ("fastest", "run: magic-pyramid calibrate DIR --data"),
    ],
)
def test_a_speed_that_is_not_there_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        stored_speed({}, name)


@pytest.mark.parametrize("problem", ["single_label", "multi_label"])
@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_a_temperature_undoes_what_made_the_logits_too_sure(problem, true):
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (4000, 3)).astype(np.float32)
    if problem == "single_label":
        wanted = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)[:, None]
    else:
        wanted = (random.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int64)
    found = fit_temperatures({1: logits * np.float32(true)}, wanted, problem)
    assert found[1] == pytest.approx(true, rel=0.1)


def test_labels_of_a_multi_label_text_count_together():
    assert wanted_answers([(0, 2), ()], tiny.MULTI_LABEL).tolist() == [[1, 0, 1], [0, 0, 0]]


def test_simulation_and_engine_agree_on_thresholds_of_their_own():
    model = tiny.build(seed=3)
    engine, setting = TorchEngine(model), Setting(exit_threshold=(0.3, 0.8))
    output, _ = simulate(model.config, engine.answer_all_heads(ENCODED, scale=1.0), setting)
    assert output.exit_layer.tolist() == engine.run(ENCODED, setting=setting).exit_layer.tolist()
