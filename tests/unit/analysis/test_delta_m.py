import numpy as np
import pytest

from mtrl_fairgrad.analysis.delta_m import delta_m, mean_rank

# Accuracy and error of three methods; the single-task networks have 0.5 and 2.
COMPARED, BASELINE, HIGHER = [[0.4, 2.0], [0.6, 1.0], [0.5, 4.0]], [0.5, 2.0], [True, False]


def test_delta_m_is_the_mean_relative_drop():
    # −20% accuracy is a drop of 20, an unchanged error one of 0; +20% and −50% are gains; a doubled
    # error drops 100.
    np.testing.assert_allclose(delta_m(COMPARED, BASELINE, HIGHER), [10.0, -35.0, 50.0])
    np.testing.assert_allclose(delta_m(COMPARED, BASELINE, [False, True]), [-10.0, 35.0, -50.0])


def test_the_baseline_itself_has_delta_m_zero_and_units_do_not_matter():
    assert delta_m([BASELINE], BASELINE, HIGHER) == [0.0]
    units = np.array([100.0, 0.001])
    scaled = delta_m(COMPARED * units, BASELINE * units, HIGHER)
    np.testing.assert_allclose(scaled, delta_m(COMPARED, BASELINE, HIGHER))


def test_mean_rank_follows_each_metrics_direction():
    # Accuracies rank 3, 1, 2; errors 2, 1, 3.
    np.testing.assert_array_equal(mean_rank(COMPARED, HIGHER), [2.5, 1.0, 2.5])
    np.testing.assert_array_equal(mean_rank(COMPARED, [False, True]), [1.5, 3.0, 1.5])


def test_equal_values_share_a_rank_and_no_rank_is_skipped():
    np.testing.assert_array_equal(
        mean_rank([[3.0], [1.0], [2.0], [2.0]], [False]), [3.0, 1.0, 2.0, 2.0]
    )
    np.testing.assert_array_equal(
        mean_rank([[3.0], [1.0], [2.0], [2.0]], [True]), [1.0, 3.0, 2.0, 2.0]
    )
    np.testing.assert_array_equal(mean_rank([[5.0, 7.0], [5.0, 7.0]], [True, False]), [1.0, 1.0])


@pytest.mark.parametrize("base", [0.0, -2.0, np.nan, np.inf])
def test_a_baseline_that_nothing_can_be_relative_to_is_refused(base):
    with pytest.raises(ValueError, match=r"baseline\[1\] is .* needs a positive baseline"):
        delta_m(COMPARED, [0.5, base], HIGHER)


def test_comparisons_of_other_shapes_or_values_are_refused():
    with pytest.raises(ValueError, match=r"baseline has shape \(3,\): give \[2\]"):
        delta_m(COMPARED, [1.0, 2.0, 3.0], HIGHER)
    for compare in (mean_rank, lambda values, higher: delta_m(values, BASELINE, higher)):
        for values in ([0.4, 2.0], np.zeros((0, 2)), np.zeros((3, 0))):
            with pytest.raises(ValueError, match=r"give \[methods, metrics\]"):
                compare(values, HIGHER)
        for higher in ([True], [[True, False]], [1, 0], ["higher", "lower"]):
            with pytest.raises(ValueError, match="True or False for each of the 2 metrics"):
                compare(COMPARED, higher)
        for value in (np.nan, np.inf):
            with pytest.raises(ValueError, match=r"values\[1, 0\] is"):
                compare([[0.4, 2.0], [value, 1.0]], HIGHER)
