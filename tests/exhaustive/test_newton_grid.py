"""Newton's solutions against exact ones, on a fine grid of fairness and sizes, and compiled."""

import pytest
import torch

from mtrl_fairgrad.weighting.solvers import newton
from tests.unit.weighting.newton_checks import check_against_exact, generator
from tests.unit.weighting.samplers import (
    SAMPLERS,
    heterogeneous,
)


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


def test_compiles_into_one_graph() -> None:
    jacobians = torch.stack([heterogeneous(5, generator(seed)) for seed in range(3)])
    gramians = jacobians @ jacobians.mT
    compiled = torch.compile(lambda gramian: newton(gramian, 2.0), fullgraph=True, backend="eager")
    assert torch.equal(compiled(gramians).weights, newton(gramians, 2.0, form="batched").weights)
