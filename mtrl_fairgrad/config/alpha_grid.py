"""The values of α that a search tries: a coarse grid, then a fine one around the best (§5.4).

The paper tries 1, 2, 5 and 10, then a grid with step 0.1, whose extent it does not state. Here the
grid extends `radius` to both sides of the best α so far and moves along with it, so that in the end
all neighbours of the best within that distance have been tried and none is better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mtrl_fairgrad.utils.validation import ConfigError, option, validate_fields


@dataclass
class SearchConfig:
    """Options of the search for FairGrad's α."""

    coarse: list[float] = option(
        factory=lambda: [1.0, 2.0, 5.0, 10.0], help="α of the first round.", above=0
    )
    step: float = option(0.1, "Spacing of the grid around the best α.", at_least=0.001)
    radius: float = option(
        0.5,
        "Extent of the grid on both sides of the best α, at least step; 0: no grid.",
        at_least=0,
    )


def check_search(search: SearchConfig) -> None:
    """Check the fields and their combination.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    validate_fields(search, "search.")
    if not search.coarse or len(set(search.coarse)) < len(search.coarse):
        raise ConfigError(
            f"search.coarse={search.coarse} is not allowed: give at least one α, "
            "and each only once.",
            "search.coarse",
            search.coarse,
        )
    if 0 < search.radius < search.step:
        raise ConfigError(
            f"search.radius={search.radius:g} is not allowed: give at least "
            f"search.step={search.step:g}, or 0 for the first round alone.",
            "search.radius",
            search.radius,
        )


def best_alpha(scores: Mapping[float, float]) -> float:
    """Return the α of the lowest score, the smallest of equals; NaN counts as infinite."""
    return min(
        scores, key=lambda alpha: (math.inf if math.isnan(scores[alpha]) else scores[alpha], alpha)
    )


def next_alphas(scores: Mapping[float, float], options: SearchConfig) -> list[float]:
    """Return the α to try next, in order; call it again after each new score.

    Args:
        scores: α → score, less is better; infinite or NaN for one that failed.
        options: first round, step and radius.

    Returns:
        Values above 0 without a score: the rest of the first round, else of the grid around the
        best, nearest first; empty when the search is over.
    """
    coarse = [alpha for alpha in options.coarse if alpha not in scores]
    if coarse:
        return coarse
    best = best_alpha(scores)
    # Rounded, because 1 + 0.1 · 2 is 1.2000000000000002; with a margin, because 0.3 / 0.1 is
    # 2.9999999999999996.
    reach = math.floor(options.radius / options.step + 1e-9)
    grid = [
        round(best + side * distance * options.step, 10)
        for distance in range(1, reach + 1)
        for side in (-1, 1)
    ]
    return [alpha for alpha in grid if alpha > 0 and alpha not in scores]
