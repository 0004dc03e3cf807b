"""Nash-MTL, multi-task learning as a bargaining game.

Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, "Multi-Task Learning as a
Bargaining Game", 2022, arXiv 2202.01017.

The Nash bargaining solution maximises `Σ log g_iᵀd`, so that `d = Σ w_i g_i` with

    GᵀG w = 1/w,

which is FairGrad's equation at α = 1 and is solved exactly here. The direction does not depend on
the scale of a task, and `‖d‖² = K`.

The authors' code (github.com/AvivNavon/nash-mtl), LibMTL's and TorchJD's approximate the same
weights by a sequence of at most 20 convex programmes. They divide M by ‖M‖_F for the solver and
multiply it back in the constraints, `w_i ‖M‖_F · (M/‖M‖_F · w)_i ≥ 1`, so that their weights are
those of M. Afterwards they clip the direction of the shared parameters to norm 1, which is part of
the convention `libmtl_nash_mtl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from mtrl_fairgrad.weighting import solvers
from mtrl_fairgrad.weighting.base import GramianWeighting, Weights, weights_with_progress
from mtrl_fairgrad.weighting.options import Choice, Whole


class NashMTL(GramianWeighting):
    """The Nash bargaining solution, exactly. Costs one Jacobian and the solution of a K×K equation.

    It stores its weights if they are used for more than one call.

    Args:
        update_weights_every: number of calls that use the same weights, at least 1; fixed by
            `init`. The authors' code has 1 on MT10 and more elsewhere to save time, which is not
            needed here.
        normalize: `"none"` solves for M, as all published codes do; `"frobenius"` returns the
            solution for `M/‖M‖_F`, which makes d longer by `√‖M‖_F`: `‖d‖² = K‖M‖_F`, which grows
            with the gradients.

    Raises:
        ValueError: an option that is not allowed.
    """

    name = "nash_mtl"

    update_weights_every = Whole(at_least=1, before_init=True)
    normalize = Choice("none", "frobenius")
    kept: Tensor
    calls: Tensor

    def __init__(self, update_weights_every: int = 1, normalize: str = "none") -> None:
        super().__init__()
        self.update_weights_every = update_weights_every
        self.normalize = normalize

    def init(
        self,
        tasks: int,
        batch_shape: tuple[int, ...] = (),
        template: Mapping[str, Tensor] | None = None,
    ) -> Self:
        """Set the sizes of the stored weights; optional with `update_weights_every=1`.

        Raises:
            ValueError: `tasks` < 1.
        """
        super().init(tasks, batch_shape, template)
        if self.update_weights_every > 1:
            self._add_state("kept", (*batch_shape, tasks), torch.nan)
            self._add_state("calls", ())
        return self

    @torch.no_grad()
    def forward(self, gramian: Tensor) -> Weights:
        """Compute weights.

        Args:
            gramian: `[..., K, K]`.

        Returns:
            Weights `[..., K]`, positive, 0 for tasks without gradient, with FairGrad's diagnostics
            `residual` (of the equation at this call, also where older weights are used),
            `min_progress`, `converged` and `active`. NaN for an element of the leading axes that is
            not finite.

        Raises:
            ValueError: a Gramian that is not `[..., K, K]`; not initialised, or for a different
                shape, where needed.
        """
        solution = solvers.newton(gramian, 1.0)
        diagnostics = {
            "residual": solution.residual,
            "converged": solution.converged,
            "active": solution.active,
        }
        if self.update_weights_every == 1 and self.normalize == "none":
            return Weights(solution.weights, {**diagnostics, "min_progress": solution.min_progress})
        weights = solution.weights.double()
        if self.normalize == "frobenius":
            weights = weights * gramian.double().square().sum((-1, -2)).pow(0.25)[..., None]
        if self.update_weights_every > 1:
            weights = self._store(weights)
        return weights_with_progress(gramian, weights, **diagnostics)

    def _store(self, weights: Tensor) -> Tensor:
        """Return these weights when an update is due, otherwise the stored ones."""
        self._check_shape(weights.shape)
        due = (self.calls % self.update_weights_every == 0) | self.kept.isnan()
        self.kept.copy_(torch.where(due, weights, self.kept))
        self.calls.add_(1)
        return torch.where(weights.isnan(), weights, self.kept)

    def extra_repr(self) -> str:
        """Return the options for `print`."""
        return f"update_weights_every={self.update_weights_every}, normalize={self.normalize}"
