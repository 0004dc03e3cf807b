"""Newton's solutions against exact ones, on a fine grid of fairness and sizes."""

import pytest

from tests.unit.weighting.newton_checks import check_against_exact
from tests.unit.weighting.samplers import SAMPLERS


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3, 0.7, 0.999999, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_direction_equals_the_exact_one_on_a_fine_grid(name: str, alpha: float) -> None:
    for tasks, seeds in (
        (2, range(40)),
        (3, range(20)),
        (5, range(20)),
        (20, range(8)),
        (50, range(4)),
    ):
        check_against_exact(name, alpha, tasks, seeds)
