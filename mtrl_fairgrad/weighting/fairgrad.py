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

Gradients of samples are noisy, and noise makes the diagonal of `GᵀG` too large. What is left of a
task that has converged is noise; for orthogonal gradients its weight is `‖g_i‖^(−2α/(1+α))`, so it
weighs more than the others, and the more so the smaller its noise is. Five options respond to
noise; each is off by default:

* `gramian="half_batches"`: an unbiased diagonal, so that the weights tend to those of the expected
  gradients, and `min_relative_norm` leaves out converged tasks instead of only vanished gradients;
* `gramian_decay`: a Gramian that fluctuates less;
* `solve_every`: weights of an earlier batch, which do not depend on the noise of this one;
* `weight_ratio`: no weight dominates;
* `length="ls"`: no large weight makes a long step.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting import solvers
from mtrl_fairgrad.weighting.base import GramianWeighting, Weights
from mtrl_fairgrad.weighting.half_batches import (
    check_halves,
    ratio_of_squares,
    unbiased_gramian,
    whole_gramian,
)
from mtrl_fairgrad.weighting.options import Choice, Number, NumberOrNone, Whole
from mtrl_fairgrad.weighting.products import align
from mtrl_fairgrad.weighting.rescaling import at_length_of_mean, bound_ratios, min_progress
from mtrl_fairgrad.weighting.solvers.equation import SOLVED, Solution
from mtrl_fairgrad.weighting.solvers.projection import solve_projected


class FairGrad(GramianWeighting):
    """α-fair weights from the Gramian.

    Costs one Jacobian and the solution of a K×K equation. Stateless by default.

    Args:
        alpha: the fairness, at least 0 and finite.
        solver: `"newton"` is exact; `"sgd"` and `"least_squares"` are those of the paper's
            reinforcement-learning and supervised code, for comparison. See
            `mtrl_fairgrad.weighting.solvers`.
        min_relative_norm: tasks whose gradient norm is at most this part of the largest one are
            left out, with weight 0; in [0, 1). Tasks without any gradient always are, the equation
            having no finite weight for them. For α > 1 a vanishing gradient would otherwise
            dominate: its share of d grows as `‖g_i‖^((1−α)/(1+α))`. With `half_batches` these are
            norms without noise, and tasks whose squared norm is not positive are left out, too.
            0.1 to 0.3 then leaves out tasks that have converged, which otherwise get a huge weight
            whenever the estimate of their squared norm is positive and small; it also leaves out
            tasks with as short a gradient for another reason.
        sgd_steps: steps of the sgd solver, at least 1.
        sgd_learning_rate: its step size, positive.
        sgd_momentum: its momentum, in [0, 1).
        sgd_max_norm: the norm its gradients are clipped to, positive.
        sgd_precision: `"float32"` computes as the published code does; `"float64"` without its
            overflow, which gives other directions at α ≤ 1.
        gramian: `"plain"`, of the whole batches' gradients; `"half_batches"`, the inner products of
            gradients of different halves, whose noise is independent, projected to a positive
            semi-definite matrix (`solvers.projection`). It needs two rows for each task
            (`splits_batch`), which `combine` provides: twice the memory of a Jacobian. The
            direction is that of the whole batches. On a GPU the equation is solved on the CPU.
        gramian_decay: weight β of the old average in an exponential average of the Gramian before
            solving, corrected for its start as Adam's averages; in [0, 1), 0 for no average. Fixed
            by `init`, as `gramian` and `solve_every` are.
        solve_every: number of calls that use the same weights, at least 1, as in PSMGD (Xu et al.,
            2024, arXiv 2412.10961). The equation is solved in every call all the same: a graph
            of a GPU has no branches, and a solution takes less than a hundredth of an update.
        weight_ratio: largest factor between a weight and the geometric mean of all active tasks'
            weights, at least 1; None for no bound. See `rescaling.bound_ratios`.
        length: of the direction: `"own"`, that of `Σ w_i g_i`; `"ls"`, that of the gradients' mean,
            so that learning rate and clipping mean what they do for linear scalarisation.

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
    gramian = Choice("plain", "half_batches", before_init=True)
    gramian_decay = Number(at_least=0, below=1, before_init=True)
    solve_every = Whole(at_least=1, before_init=True)
    weight_ratio = NumberOrNone(at_least=1, hint="or null for no bound")
    length = Choice("own", "ls")

    calls: Tensor
    """`[...]` float64, number of calls with a finite Gramian."""
    average: Tensor
    """`[..., K, K]` float64, before the correction for its start."""
    kept: Tensor
    """`[..., K]` float64, weights of the last solution that was used."""
    kept_residual: Tensor
    """`[...]` float64, its residual."""

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
        gramian: str = "plain",
        gramian_decay: float = 0.0,
        solve_every: int = 1,
        weight_ratio: float | None = None,
        length: str = "own",
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
        self.gramian = gramian
        self.gramian_decay = gramian_decay
        self.solve_every = solve_every
        self.weight_ratio = weight_ratio
        self.length = length

    @property
    def splits_batch(self) -> bool:
        """Whether the Gramian is that of half-batches."""
        return self.gramian == "half_batches"

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Create the state of `gramian_decay` and `solve_every`; optional without them.

        Raises:
            ValueError: `tasks` < 1.
        """
        super().init(tasks, batch_shape, template)
        if self._has_state:
            self._add_state("calls", self.batch_shape)
        if self.gramian_decay:
            self._add_state("average", (*self.batch_shape, tasks, tasks))
        if self.solve_every > 1:
            self._add_state("kept", (*self.batch_shape, tasks))
            self._add_state("kept_residual", self.batch_shape)
        return self

    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights and update the state.

        Args:
            gramian: `[..., K, K]`, symmetric positive semi-definite; with `half_batches`
                `[..., 2K, 2K]`, of the two rows of each task, see `weighting.half_batches`.

        Returns:
            Weights `[..., K]` in the Gramian's dtype (float32 for half precision), positive for
            active tasks and 0 for others, with the diagnostics

            * `residual` `[...]`, see `solvers.relative_residual`: of the equation that was solved,
              with its Gramian, before `weight_ratio` and `length`;
            * `min_progress` `[...]`, the smallest `g_iᵀd` of an active task, for the gradients of
              the whole batches in this call;
            * `converged` `[...]` bool, whether the solver solved its equation;
            * `active` `[..., K]` bool, False for tasks left out;
            * with `half_batches`, `signal` `[..., K]`, the unbiased squared norm of each gradient
              as a part of its squared norm: 1 without noise, around 0 where all is noise.

            If no task has a gradient, all weights are 0. Where a Gramian has a non-finite entry,
            weights and numbers are NaN, bools False, and the state does not change, for this
            element of the leading axes only.

        Raises:
            ValueError: a Gramian of another shape; not initialised, or for a different shape, where
                there is state.
        """
        signal: dict[str, Tensor] = {}
        whole = estimate = gramian
        if self.splits_batch:
            check_halves(gramian)
            whole, estimate = whole_gramian(gramian), unbiased_gramian(gramian)
            signal["signal"] = ratio_of_squares(estimate, whole)
        solution = self._solution(estimate)
        weights, smallest = solution.weights, solution.min_progress
        if self.weight_ratio is not None:
            weights = bound_ratios(weights, self.weight_ratio)
        if self.length == "ls":
            weights = at_length_of_mean(weights, whole)
        if self._responds_to_noise:
            smallest = min_progress(whole, weights)
        diagnostics = {
            "residual": solution.residual,
            "min_progress": smallest,
            "converged": solution.converged,
            "active": solution.active,
            **signal,
        }
        return Weights(weights.to(solution.weights.dtype), diagnostics)

    @property
    def _has_state(self) -> bool:
        return self.gramian_decay > 0 or self.solve_every > 1

    @property
    def _responds_to_noise(self) -> bool:
        bounded = self.weight_ratio is not None or self.length != "own"
        return self.splits_batch or self._has_state or bounded

    def _solution(self, gramian: Tensor) -> Solution:
        """Solve the equation, for the average Gramian and with earlier weights where wanted."""
        if not self._has_state:
            return self._solved(gramian)
        self._check_shape(gramian.shape[:-1])
        average = gramian.double()
        if self.gramian_decay:
            average = torch.lerp(average, self.average, self.gramian_decay)
            share = 1 - self.gramian_decay ** (self.calls + 1)
            gramian = (average / share[..., None, None]).to(gramian.dtype)
        solution = self._solved(gramian)
        valid = solution.weights.isfinite().all(-1)
        if self.gramian_decay:
            _store(self.average, average, valid)
        if self.solve_every > 1:
            due = valid & (self.calls % self.solve_every == 0)
            _store(self.kept, solution.weights, due)
            _store(self.kept_residual, solution.residual, due)
            weights = torch.where(valid[..., None], self.kept, torch.nan)
            residual = torch.where(valid, self.kept_residual, torch.nan)
            solution = solution._replace(
                weights=weights.to(solution.weights.dtype),
                residual=residual,
                converged=residual <= SOLVED,
                active=weights > 0,
            )
        self.calls.add_(valid)
        return solution

    def _solved(self, gramian: Tensor) -> Solution:
        """Solve the equation, for the nearest Gramian where the matrix may be none."""
        smallest = self.min_relative_norm
        if self.splits_batch:  # the projection leaves tasks out
            return solve_projected(partial(self._solve, smallest=0.0), gramian, smallest)
        return self._solve(gramian, smallest)

    def _solve(self, gramian: Tensor, smallest: float) -> Solution:
        """Solve the equation by the chosen solver, with a `min_relative_norm`."""
        if self.alpha == 0:
            return solvers.equal(gramian, smallest)
        if self.solver == "newton":
            return solvers.newton(gramian, self.alpha, min_relative_norm=smallest)
        if self.solver == "least_squares":
            return solvers.least_squares(gramian, self.alpha, min_relative_norm=smallest)
        return solvers.sgd(
            gramian,
            self.alpha,
            steps=self.sgd_steps,
            learning_rate=self.sgd_learning_rate,
            momentum=self.sgd_momentum,
            max_norm=self.sgd_max_norm,
            min_relative_norm=smallest,
            precision="float64" if self.sgd_precision == "float64" else "float32",
        )

    def extra_repr(self) -> str:
        """Return the options for `print`, those for noise if they differ from the defaults."""
        smallest = self.min_relative_norm
        shown = f"alpha={self.alpha:g}, solver={self.solver}, min_relative_norm={smallest:g}"
        if self._responds_to_noise:
            shown += (
                f", gramian={self.gramian}, gramian_decay={self.gramian_decay:g}, "
                f"solve_every={self.solve_every}, weight_ratio={self.weight_ratio}, "
                f"length={self.length}"
            )
        return shown


def _store(state: Tensor, value: Tensor, where: Tensor) -> None:
    """Overwrite the state where `where` `[...]`, in place."""
    torch.where(align(where, state), value, state, out=state)
