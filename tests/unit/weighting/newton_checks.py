"""Newton's solutions against exact ones."""

from typing import Literal, get_args

import torch

from mtrl_fairgrad.weighting.solvers import newton
from tests.unit.weighting.exact_solution import angle, exact_weights
from tests.unit.weighting.samplers import (
    SAMPLERS,
    cosine_condition,
)

Form = Literal["lapack", "batched"]
FORMS: tuple[Form, ...] = get_args(Form)
SCALES = (1.0, 1e-5, 1e5, 1e-2)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def check_against_exact(name: str, alpha: float, tasks: int, seeds: range) -> None:
    jacobians = torch.stack(
        [SAMPLERS[name](tasks, generator(s)) * SCALES[s % len(SCALES)] for s in seeds]
    )
    gramians = jacobians @ jacobians.mT
    found = {form: newton(gramians, alpha, form=form) for form in FORMS}
    for i, jacobian in enumerate(jacobians):
        assert cosine_condition(jacobian) <= 1e6
        exact = exact_weights(gramians[i], found["lapack"].weights[i], alpha)
        for form, solution in found.items():
            assert solution.converged[i], f"{form}, seed {seeds[i]}"
            assert angle(jacobian, solution.weights[i], exact) <= 1e-4, f"{form}, seed {seeds[i]}"
