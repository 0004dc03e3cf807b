"""FairGrad, α-fair combination of task gradients.

Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", 2024, arXiv 2402.15638.

Among the directions d of a given length, FairGrad takes the one of greatest α-fair utility of the
tasks' rates of progress `g_iᵀd` (the paper's Eq. 2),

    max_d Σ_i (g_iᵀd)^(1−α) / (1−α)      (log for α = 1)

whose solution is `d = Σ_i w_i g_i` with the weights of Eq. 4,

    GᵀG w = w^(−1/α),   that is   g_iᵀd = w_i^(−1/α) > 0:

every task improves, and the slower ones weigh more, the more so the larger α:

| α | fairness | direction |
|---|---|---|
| 0 | none, utilitarian | linear scalarisation, w = 1 |
| 1 | proportional | Nash-MTL's bargaining solution; rescaling a task changes nothing |
| 2 | minimum potential delay, `min Σ 1/(g_iᵀd)` | the paper's choice for reinforcement learning |
| ∞ | max-min | parallel to MGDA's |

Two laws show what to expect of a step's size. `‖d‖² = Σ w_i^(1−1/α)`, which at α = 1 is K whatever
the gradients. Scaling all gradients by c scales w by `c^(−2α/(1+α))` and d by `c^((1−α)/(1+α))`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl_fairgrad.weighting import solvers
from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.options import Choice, Number, Whole


class FairGrad(GramianWeighting):
    """α-fair weights from the Gramian.

    Stateless; costs one Jacobian and the solution of a K×K equation.

    Args:
        alpha: the fairness, at least 0 and finite.
        solver: `"newton"` is exact; `"sgd"` and `"least_squares"` are those of the paper's
            reinforcement-learning and supervised code, for comparison. See
            `mtrl_fairgrad.weighting.solvers`.
        min_relative_norm: tasks whose gradient norm is at most this part of the largest one are
            left out, with weight 0; in [0, 1). Tasks without any gradient always are, the equation
            having no finite weight for them. For α > 1 a vanishing gradient would otherwise
            dominate: its share of d grows as `‖g_i‖^((1−α)/(1+α))`.
        sgd_steps: steps of the sgd solver, at least 1.
        sgd_learning_rate: its step size, positive.
        sgd_momentum: its momentum, in [0, 1).
        sgd_max_norm: the norm its gradients are clipped to, positive.
        sgd_precision: `"float32"` computes as the published code does; `"float64"` without its
            overflow, which gives other directions at α ≤ 1.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "fairgrad"

    alpha = Number(at_least=0)
    solver = Choice("newton", "sgd", "least_squares")
    min_relative_norm = Number(
        at_least=0, below=1, hint="or 0 to leave out only tasks without gradient"
    )
    sgd_steps = Whole(at_least=1)
    sgd_learning_rate = Number(above=0)
    sgd_momentum = Number(at_least=0, below=1)
    sgd_max_norm = Number(above=0)
    sgd_precision = Choice("float32", "float64")

    def __init__(
        self,
        alpha: float = 2.0,
        solver: str = "newton",
        min_relative_norm: float = 1e-6,
        sgd_steps: int = 20,
        sgd_learning_rate: float = 0.1,
        sgd_momentum: float = 0.5,
        sgd_max_norm: float = 1.0,
        sgd_precision: str = "float32",
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.solver = solver
        self.min_relative_norm = min_relative_norm
        self.sgd_steps = sgd_steps
        self.sgd_learning_rate = sgd_learning_rate
        self.sgd_momentum = sgd_momentum
        self.sgd_max_norm = sgd_max_norm
        self.sgd_precision = sgd_precision

    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`, symmetric positive semi-definite.

        Returns:
            Weights `[..., K]` in the Gramian's dtype (float32 for half precision), positive for
            active tasks and 0 for others, with the diagnostics

            * `residual` `[...]`, see `solvers.relative_residual`;
            * `min_progress` `[...]`, the smallest `g_iᵀd` of an active task;
            * `converged` `[...]` bool, whether the solver solved its equation;
            * `active` `[..., K]` bool, False for tasks left out.

            If no task has a gradient, all weights are 0. Where a Gramian has a non-finite entry,
            weights and numbers are NaN and bools False, for this element of the leading axes only.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`.
        """
        smallest = self.min_relative_norm
        if self.alpha == 0:
            solution = solvers.equal(gramian, smallest)
        elif self.solver == "newton":
            solution = solvers.newton(gramian, self.alpha, min_relative_norm=smallest)
        elif self.solver == "sgd":
            solution = solvers.sgd(
                gramian,
                self.alpha,
                steps=self.sgd_steps,
                learning_rate=self.sgd_learning_rate,
                momentum=self.sgd_momentum,
                max_norm=self.sgd_max_norm,
                min_relative_norm=smallest,
                precision="float64" if self.sgd_precision == "float64" else "float32",
            )
        else:
            solution = solvers.least_squares(gramian, self.alpha, min_relative_norm=smallest)
        diagnostics = {
            "residual": solution.residual,
            "min_progress": solution.min_progress,
            "converged": solution.converged,
            "active": solution.active,
        }
        return Weights(solution.weights, diagnostics)

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        smallest = self.min_relative_norm
        return f"alpha={self.alpha:g}, solver={self.solver}, min_relative_norm={smallest:g}"
