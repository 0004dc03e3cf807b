"""SI, scale-invariant linear scalarisation.

The baseline of Navon et al., "Multi-Task Learning as a Bargaining Game", 2022, arXiv 2202.01017. It
minimises

    Σ_i log l_i,   that is   w_i = 1 / l_i,

so the scale of a loss does not matter: tasks count by their relative progress. The official code
fails at a loss of 0. Here losses below 10⁻⁸ count as 10⁻⁸, as in the logarithms of the same code's
other methods.
"""

from __future__ import annotations

from torch import Tensor

from mtrl_fairgrad.weighting.base import SMALLEST_DIVISOR, Weights
from mtrl_fairgrad.weighting.positive import PositiveLossWeighting


class SI(PositiveLossWeighting):
    """Scale-invariant weights `1/l_i`, at most 10⁸.

    Needs positive losses or zeros; stateless; costs one ordinary backward pass.
    """

    name = "si"

    def _weigh(self, losses: Tensor, valid: Tensor) -> Weights:
        return Weights(1 / losses.clamp(min=SMALLEST_DIVISOR), {})
