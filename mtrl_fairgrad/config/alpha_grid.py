"""Where to look for the best fairness α, as in the paper's §5.4: 1, 2, 5, 10, then a grid of step
0.1 around the best.

The paper does not say how far its grid reaches. Here it reaches `radius` to both sides of the best
so far and moves along when a better one is found, so that in the end the best has all its
neighbours within that distance, and none of them is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mtrl_fairgrad.utils.validation import ConfigError, option, validate_fields


@dataclass
class SearchConfig:
    """How a search looks for FairGrad's α."""

    coarse: list[float] = option(
        factory=lambda: [1.0, 2.0, 5.0, 10.0], help="α of the first round.", above=0
    )
    step: float = option(0.1, "Spacing of the grid around the best α.", at_least=0.001)
    radius: float = option(0.5, "Distance that the grid reaches on both sides; 0: no grid.")


def check_search(search: SearchConfig) -> None:
    """Refuse a search that cannot be made.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    validate_fields(search, "search.")
    if not search.coarse or len(set(search.coarse)) < len(search.coarse):
        raise ConfigError(
            f"search.coarse={search.coarse} is not allowed: give one α or more, each only once."
        )
    if search.radius != 0 and not search.step <= search.radius < math.inf:
        raise ConfigError(
            f"search.radius={search.radius:g} is not allowed: give a number from "
            f"search.step={search.step:g} on, "
            "or 0 for the first round alone."
        )


def best_alpha(known: Mapping[float, float]) -> float:
    """The α of the lowest score, the smallest of equals; scores that are no number come last."""
    return min(
        known, key=lambda alpha: (math.inf if math.isnan(known[alpha]) else known[alpha], alpha)
    )


def next_alphas(known: Mapping[float, float], options: SearchConfig) -> list[float]:
    """What is still to be tried, in order; the first changes what should follow, so ask again after
    it.

    Args:
        known: α → its score, less is better; infinite or no number for one that failed.
        options: first round, step and radius.

    Returns:
        Values above 0 that are not known: the rest of the first round or else of the grid around
            the best, the nearest
        first; empty when the search is over.
    """
    coarse = [alpha for alpha in options.coarse if alpha not in known]
    if coarse:
        return coarse
    best = best_alpha(known)
    # Rounded, because 1 + 0.1 · 2 is 1.2000000000000002; the quotient, because 0.3 / 0.1 is
    # 2.9999999999999996.
    reach = math.floor(options.radius / options.step + 1e-9)
    grid = [
        round(best + side * place * options.step, 10)
        for place in range(1, reach + 1)
        for side in (-1, 1)
    ]
    return [alpha for alpha in grid if alpha > 0 and alpha not in known]
