"""Newton's solutions against exact ones."""

import torch

from mtrl_fairgrad.weighting.solvers import newton
from tests.unit.weighting.exact_solution import angle, exact_weights
from tests.unit.weighting.samplers import SAMPLERS, cosine_condition

SCALES = (1.0, 1e-5, 1e5, 1e-2)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_against_exact(name: str, alpha: float, tasks: int, seeds: range) -> None:
    jacobians = torch.stack(
        [SAMPLERS[name](tasks, generator(s)) * SCALES[s % len(SCALES)] for s in seeds]
    )
    gramians = jacobians @ jacobians.mT
    solution = newton(gramians, alpha)
    assert solution.converged.all()
    for i, jacobian in enumerate(jacobians):
        assert cosine_condition(jacobian) <= 1e6
        exact = exact_weights(gramians[i], solution.weights[i], alpha)
        assert angle(jacobian, solution.weights[i], exact) <= 1e-4, f"seed {seeds[i]}"
