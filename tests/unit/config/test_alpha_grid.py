"""Which α a search tries."""

import math

import pytest

from mtrl_fairgrad.config.alpha_grid import SearchConfig, best_alpha, check_search, next_alphas
from tests.support.errors import refused


def tried(objective, options):
    """α → score of everything a search tries, in that order."""
    known = {}
    while todo := next_alphas(known, options):
        assert todo[0] not in known and len(known) < 200
        known[todo[0]] = objective(todo[0])
    return known


@pytest.mark.parametrize("lowest", [0.12, 0.7, 1.0, 2.34, 4.0, 5.6, 11.3])
def test_a_search_ends_at_the_lowest_with_all_neighbours_known(lowest):
    options = SearchConfig()
    known = tried(lambda alpha: abs(math.log(alpha / lowest)), options)
    assert list(known)[:4] == [1, 2, 5, 10]
    best = best_alpha(known)
    assert best == pytest.approx(lowest, abs=0.051)
    around = [round(best + place * 0.1, 10) for place in range(-5, 6)]
    assert {alpha for alpha in around if alpha > 0} <= set(known)
    # Apart from the first round it only walks from there to here.
    start = min(options.coarse, key=lambda alpha: abs(math.log(alpha / lowest)))
    assert all(
        min(start, best) - 0.51 <= alpha <= max(start, best) + 0.51 for alpha in list(known)[4:]
    )
    assert all(alpha > 0 and repr(alpha) == f"{alpha:.1f}" for alpha in map(float, known))


def test_the_nearest_come_first_and_the_rest_of_the_first_round_before_all():
    assert next_alphas({}, SearchConfig()) == [1, 2, 5, 10]
    assert next_alphas({2: 0.0, 10: 1.0}, SearchConfig()) == [1, 5]
    first_round = {1: 3.0, 2: 0.0, 5: 2.0, 10: 4.0}
    assert next_alphas(first_round, SearchConfig(radius=0.3)) == [1.9, 2.1, 1.8, 2.2, 1.7, 2.3]
    assert next_alphas(first_round | {1.9: 1.0, 2.1: -1.0}, SearchConfig(radius=0.3)) == [
        2.2,
        2.3,
        1.8,
        2.4,
    ]


def test_without_a_radius_there_is_the_first_round_alone():
    assert list(tried(lambda alpha: alpha, SearchConfig(coarse=[3.0, 0.5], radius=0))) == [3.0, 0.5]


def test_no_number_is_never_the_best_and_of_equals_the_smallest_is():
    assert best_alpha({1: math.nan, 2: math.inf, 5: 3.0}) == 5
    assert best_alpha({5: 3.0, 2: 3.0, 10: 4.0}) == 2


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ({"coarse": []}, []),
        ({"coarse": [1.0, 1.0]}, [1.0, 1.0]),
        ({"coarse": [0.0]}, 0.0),
        ({"step": 0.0}, 0.0),
        ({"radius": 0.05}, 0.05),
        ({"radius": -1.0}, -1.0),
        ({"radius": math.inf}, math.inf),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(wrong, value):
    (name,) = wrong
    with refused(f"search.{name}", value):
        check_search(SearchConfig(**wrong))
    check_search(SearchConfig())
