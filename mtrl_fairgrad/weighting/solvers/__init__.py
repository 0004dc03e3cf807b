"""Three solvers of the α-fair equation `Mw = w^(−1/α)`.

`M = GᵀG` is the Gramian of K task gradients.

* `newton`: exact. The equation is the stationarity condition of a strictly convex function of
  `w > 0`, so its solution is unique, and there is one unless some convex combination of the
  gradients vanishes (Pareto stationarity).
* `sgd`: the paper's fast solver for reinforcement learning, reproduced for comparison. Twenty
  clipped steps limit how far it can move, so it often returns nearly equal weights with a large
  residual.
* `least_squares`: the paper's solver for supervised learning, reproduced for comparison. Slow, and
  wrong on hard Gramians.

Common to all: `gramian` is `[..., K, K]`, symmetric positive semi-definite, of any floating type;
`alpha` is positive; `active` is `[..., K]` bool, all True by default. Inactive tasks, and tasks
without gradient, get weight 0 and do not influence the weights of the others. An element of the
leading axes with a non-finite entry gets NaN weights and does not influence other elements.
Computation is in float64, that of `sgd` in float32 as published; results have the Gramian's dtype
(float32 for half precision) and carry no gradient.
"""

from mtrl_fairgrad.weighting.solvers.equation import Solution, equal, relative_residual
from mtrl_fairgrad.weighting.solvers.newton import newton
from mtrl_fairgrad.weighting.solvers.paper import least_squares, sgd

__all__ = ["Solution", "equal", "least_squares", "newton", "relative_residual", "sgd"]
