import numpy as np
import pytest
from scipy.stats import mannwhitneyu, trim_mean

from mtrl_fairgrad.analysis.statistics import (
    best_over_course,
    final,
    interquartile_mean,
    learning_curve,
    mean_over_course,
    mean_score,
    over_seeds,
    probability_of_improvement,
    rank_test,
    stratified_bootstrap,
    task_curves,
)

# [T=3, S=2, K=2], means over tasks: seed 0: 0, .8, .5; seed 1: .2, .6, .7. Means over seeds: .1,
# .7, .6.
SUCCESS = np.array([[[0.0, 0.0], [0.4, 0.0]], [[1.0, 0.6], [0.8, 0.4]], [[0.2, 0.8], [0.6, 0.8]]])


def test_over_seeds_is_the_textbook_standard_error():
    # 1, 3, 5: variance with S−1 is 4, so s/√3 = 2/√3.
    found = over_seeds([[1.0, 3.0, 5.0]], axis=1)
    np.testing.assert_allclose(found.mean, [3.0])
    np.testing.assert_allclose(found.stderr, [2 / np.sqrt(3)])


def test_over_seeds_takes_the_axis_it_is_told():
    values = np.arange(12.0).reshape(2, 3, 2)
    found = over_seeds(values, axis=1)
    assert found.mean.shape == found.stderr.shape == (2, 2)
    np.testing.assert_allclose(found.mean, [[2.0, 3.0], [8.0, 9.0]])
    np.testing.assert_allclose(found.stderr, np.full((2, 2), 2 / np.sqrt(3)))


def test_one_seed_has_a_mean_and_no_standard_error():
    found = learning_curve(SUCCESS[:, :1])
    np.testing.assert_allclose(found.mean, [0.0, 0.8, 0.5])
    assert np.isnan(found.stderr).all()
    assert np.isnan(final(SUCCESS[:, :1]).stderr)


def test_learning_curve_averages_tasks_first_then_seeds():
    found = learning_curve(SUCCESS)
    np.testing.assert_allclose(found.mean, [0.1, 0.7, 0.6])
    # Two values a, b: s = |a−b|/√2, s/√2 = |a−b|/2. Over all four S·K values the last would be
    # 0.14, not 0.1.
    np.testing.assert_allclose(found.stderr, [0.1, 0.1, 0.1])


def test_task_curves_keep_the_tasks_apart():
    found = task_curves(SUCCESS)
    np.testing.assert_allclose(found.mean, [[0.2, 0.0], [0.9, 0.5], [0.4, 0.8]])
    np.testing.assert_allclose(found.stderr, [[0.2, 0.0], [0.1, 0.1], [0.2, 0.0]])


def test_final_and_best_over_course():
    last, best = final(SUCCESS), best_over_course(SUCCESS)
    assert (last.evaluation, best.evaluation) == (2, 1)
    assert last.mean == pytest.approx(0.6) and last.stderr == pytest.approx(0.1)
    assert best.mean == pytest.approx(0.7) and best.stderr == pytest.approx(0.1)


def test_best_is_the_highest_seed_mean_and_not_the_mean_of_each_seeds_best():
    # Each seed peaks at 1, at different times; the paper's number is .5.
    crossed = np.array([[[1.0], [0.0]], [[0.0], [1.0]]])
    best = best_over_course(crossed)
    assert (best.evaluation, best.mean) == (0, 0.5)  # the earliest of equals
    assert best.stderr == pytest.approx(0.5)


def test_the_mean_over_the_course_by_hand():
    # Seeds' means over tasks are 0, .8, .5 and .2, .6, .7; the second stretch is three times as
    # long as the first.
    assert mean_over_course(SUCCESS, [0, 100, 400]) == pytest.approx(
        [0.1 + 0.75 * 0.65, 0.1 + 0.75 * 0.65]
    )
    assert mean_over_course([[[0.0], [0.0]], [[1.0], [0.0]]], [5, 7]) == pytest.approx([0.5, 0.0])


def test_the_mean_over_the_course_of_one_evaluation_and_of_one_seed():
    assert mean_over_course(SUCCESS[-1:], [9]) == pytest.approx([0.5, 0.7])
    assert mean_over_course(SUCCESS[:, :1], [0, 1, 2]) == pytest.approx([0.525])


@pytest.mark.parametrize("env_steps", [[0, 1], [0, 2, 2], [0, 2, 1], [0, 1, np.nan], 3])
def test_a_course_needs_a_time_for_each_evaluation(env_steps):
    with pytest.raises(ValueError, match="give 3 increasing numbers"):
        mean_over_course(SUCCESS, env_steps)


@pytest.mark.parametrize("shape", [(2, 2), (0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1, 1)])
def test_shapes_that_are_not_evaluations_seeds_tasks_are_refused(shape):
    with pytest.raises(ValueError, match=r"give \[evaluations, seeds, tasks\]"):
        learning_curve(np.zeros(shape))
    with pytest.raises(ValueError, match="no seed"):
        over_seeds(np.zeros((3, 0)), axis=1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.1])
def test_values_that_are_no_rates_are_refused_by_place(value):
    wrong = SUCCESS.copy()
    wrong[2, 0, 1] = value
    for statistic in (learning_curve, task_curves, final, best_over_course):
        with pytest.raises(ValueError, match=r"success\[2, 0, 1\]"):
            statistic(wrong)


# ---- intervals ----


def test_the_interquartile_mean_by_hand():
    assert interquartile_mean([[0.0, 1.0], [0.4, 0.2]]) == pytest.approx(0.3)  # of .2 and .4
    assert interquartile_mean([[0.0, 0.5, 1.0]]) == pytest.approx(0.5)  # a quarter of three is none
    # Six numbers lose one at each end: (0 + .5 + .5 + 1) / 4.
    assert interquartile_mean([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]]) == pytest.approx(0.5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 10), (10, 10), (5, 7), (2, 3)])
def test_the_interquartile_mean_is_rliables(shape):
    scores = np.random.default_rng(7).random(shape)
    assert interquartile_mean(scores) == pytest.approx(
        trim_mean(scores, proportiontocut=0.25, axis=None)
    )


def test_statistics_take_many_matrices_at_once():
    many = np.random.default_rng(1).random((4, 3, 5))
    for statistic in (interquartile_mean, mean_score):
        np.testing.assert_allclose(statistic(many), [statistic(one) for one in many])


def test_the_bootstrap_by_hand():
    # Two seeds, 0 and 1: resampled means are 0, ½, 1 with chances ¼, ½, ¼.
    assert stratified_bootstrap(mean_score, [[0.0], [1.0]]) == (0.5, 0.0, 1.0)
    # Six seeds, one of which succeeds: 0 with chance (5/6)^6 = .33, and ½ or less with .99, 1/3 or
    # less with .94.
    found = stratified_bootstrap(mean_score, [[1.0]] + [[0.0]] * 5, samples=20_000)
    assert found == pytest.approx((1 / 6, 0.0, 1 / 2))


def test_tasks_are_strata_each_resampled_by_itself():
    # Every seed is alike, tasks differ: nothing varies when tasks are kept apart.
    assert stratified_bootstrap(mean_score, [[0.0, 1.0], [0.0, 1.0]]) == (0.5, 0.5, 0.5)
    seen = []
    stratified_bootstrap(
        lambda scores: seen.append(scores) or mean_score(scores), [[1.0, 10.0], [2.0, 20.0]], 400
    )
    drawn = seen[1]
    assert drawn.shape == (400, 2, 2)
    assert set(drawn[..., 0].flat) == {1.0, 2.0} and set(drawn[..., 1].flat) == {10.0, 20.0}
    together = np.mean(drawn[..., 0] * 10 == drawn[..., 1])
    assert 0.4 < together < 0.6  # one task's draws say nothing of the other's


def test_intervals_are_reproducible_from_their_seed():
    scores, rival = np.random.default_rng(3).random((2, 5, 4))
    assert stratified_bootstrap(interquartile_mean, scores) == stratified_bootstrap(
        interquartile_mean, scores
    )
    assert stratified_bootstrap(mean_score, scores, seed=1) != stratified_bootstrap(
        mean_score, scores, seed=2
    )
    assert probability_of_improvement(scores, rival) == probability_of_improvement(scores, rival)
    assert probability_of_improvement(scores, rival, seed=1) != probability_of_improvement(
        scores, rival, seed=2
    )


def test_one_seed_has_no_interval():
    several = [[0.1, 0.2], [0.3, 0.4]]
    value, *ends = stratified_bootstrap(interquartile_mean, [[0.1, 0.3]])
    assert value == pytest.approx(0.2) and np.isnan(ends).all()
    for x, y in ([[[0.5, 0.5]], several], [several, [[0.5, 0.5]]]):
        found = probability_of_improvement(x, y)
        assert found.value in (0.0, 1.0) and np.isnan([found.low, found.high]).all()


def test_probability_of_improvement_by_hand():
    # Task 1: 1 and 3 against 2 and 2, one of two seeds wins each; task 2: ties.
    x, y = [[1.0, 5.0], [3.0, 5.0]], [[2.0, 5.0], [2.0, 5.0]]
    found = probability_of_improvement(x, y)
    # Two draws of 1 and 3 win never, half of the time or always, with chances ¼, ½, ¼; ties stay ½.
    assert found == (0.5, 0.25, 0.75)
    assert probability_of_improvement([[1.0], [2.0]], [[0.0], [0.5], [0.9]]) == (1.0, 1.0, 1.0)
    assert probability_of_improvement(x, x).value == 0.5


def test_probability_of_improvement_is_rliables():
    generator = np.random.default_rng(5)
    x, y = generator.integers(0, 4, size=(6, 5)) / 4, generator.integers(0, 4, size=(4, 5)) / 4
    expected = [
        mannwhitneyu(x[:, k], y[:, k], alternative="greater").statistic / 24 for k in range(5)
    ]
    found, turned = probability_of_improvement(x, y), probability_of_improvement(y, x)
    assert found.value == pytest.approx(np.mean(expected))
    assert found.low < found.value < found.high
    assert found.value + turned.value == pytest.approx(1)


def test_the_improvements_interval_is_that_of_resampled_seeds():
    generator = np.random.default_rng(6)
    x, y = generator.random((4, 3)), generator.random((5, 3)) - 0.1
    drawn = [generator.integers(n, size=(4000, n, 3)) for n in (4, 5)]
    ours, theirs = (
        np.take_along_axis(s[None], d, axis=1) for s, d in zip((x, y), drawn, strict=True)
    )
    slow = (ours[:, :, None] > theirs[:, None]).mean(axis=(1, 2, 3))
    found = probability_of_improvement(x, y, samples=4000)
    np.testing.assert_allclose(found[1:], np.quantile(slow, [0.025, 0.975]), atol=0.03)


def test_scores_of_other_shapes_or_values_are_refused():
    good = [[0.1, 0.2], [0.3, 0.4]]
    for wrong in ([0.1, 0.2], np.zeros((0, 2)), np.zeros((2, 0))):
        with pytest.raises(ValueError, match=r"give \[seeds, tasks\]"):
            stratified_bootstrap(mean_score, wrong)
        with pytest.raises(ValueError, match=r"y has shape .* give \[seeds, tasks\]"):
            probability_of_improvement(good, wrong)
        with pytest.raises(ValueError, match=r"give \[seeds, tasks\]"):
            interquartile_mean(wrong)
    with pytest.raises(ValueError, match=r"x\[1, 0\] is nan"):
        probability_of_improvement([[0.1, 0.2], [np.nan, 0.4]], good)
    with pytest.raises(ValueError, match="x has 2 tasks and y has 1"):
        probability_of_improvement(good, [[0.1], [0.2]])
    for samples in (0, -1):
        with pytest.raises(ValueError, match=f"samples={samples} is not allowed"):
            stratified_bootstrap(mean_score, good, samples)


def test_the_rank_test_by_hand():
    # Of the 20 ways to deal six ranks to two methods of three seeds, one gives the larger three to
    # the first.
    assert rank_test([4, 5, 6], [1, 2, 3]) == (1, pytest.approx(2 / 20))
    assert rank_test([1, 2, 3], [4, 5, 6]) == (0, pytest.approx(2 / 20))
    # 3 of 4 pairs are won and one is tied; of the 6 ways, this one and its equal, with the other 2,
    # are as extreme.
    assert rank_test([2, 3], [1, 2]) == (0.875, pytest.approx(2 * 2 / 6))
    assert rank_test([0.3, 0.3], [0.1 + 0.2, 0.3]) == (0.5, 1)  # equal but for rounding


@pytest.mark.parametrize(("seeds", "rivals"), [(2, 3), (5, 4), (6, 6), (8, 8), (3, 9)])
def test_without_ties_the_rank_test_is_scipys_exact_one(seeds, rivals):
    numbers = np.random.default_rng(seeds).permutation(seeds + rivals) / 20
    x, y = numbers[:seeds], numbers[seeds:]
    exact = mannwhitneyu(x, y, method="exact")
    found = rank_test(x, y)
    assert found.probability == pytest.approx(exact.statistic / (seeds * rivals))
    assert found.p == pytest.approx(exact.pvalue, rel=1e-9)


def test_of_many_seeds_the_rank_test_draws_arrangements_and_comes_close():
    numbers = np.random.default_rng(4).normal(size=24)
    numbers[:12] += 0.8
    x, y = numbers[:12], numbers[12:]
    exact = mannwhitneyu(x, y, method="exact").pvalue
    assert rank_test(x, y) == rank_test(x, y)  # the same seed draws the same
    assert 0.01 < exact < 0.5 and rank_test(x, y).p == pytest.approx(exact, abs=0.01)


def test_the_rank_test_errs_as_often_as_it_says():
    generator = np.random.default_rng(0)
    p = [rank_test(*generator.integers(0, 5, (2, 4))).p for _ in range(400)]  # many ties
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p) <= level) <= level + 3 * np.sqrt(level / 400)


def test_a_lone_seed_is_ranked_but_not_tested():
    found = rank_test([0.5], [0.1, 0.2, 0.5])
    assert found.probability == pytest.approx(5 / 6) and np.isnan(found.p)


def test_the_rank_test_refuses_what_are_no_numbers_of_seeds():
    with pytest.raises(ValueError, match=r"y\[1, 0\] is nan: give finite numbers"):
        rank_test([0.1, 0.2], [0.1, np.nan])
    with pytest.raises(ValueError, match="x has shape"):
        rank_test([], [0.1])
