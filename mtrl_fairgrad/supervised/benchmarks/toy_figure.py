"""The paper's Figure 1: FairGrad's trajectories on the toy problem in the plane of both losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtrl_fairgrad.analysis.report.figure_style import image
from mtrl_fairgrad.supervised.benchmarks.toy import ARRIVED, Trajectories
from mtrl_fairgrad.supervised.benchmarks.toy_problem import STARTS, losses, pareto_set
from mtrl_fairgrad.utils.atomic_io import write_atomic

NAMES = {
    0.0: "LS",
    1.0: "proportional fairness",
    2.0: "minimum potential delay",
    10.0: "near max-min",
}
"""What the paper calls the fairness of some α."""


def draw(trajectories: Sequence[Trajectories], formula: str, path: Path) -> None:
    """Draw a panel for each α: black dots at the starts, stars at the ends, white if not arrived.

    The Pareto front is the thick grey line; it is drawn where it is known. Points become darker
    along a trajectory.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(trajectories) + 0.3, 3.4), layout="constrained")
    panels = figure.subplots(1, len(trajectories), squeeze=False, sharex=True, sharey=True)[0]
    for one, panel in zip(trajectories, panels, strict=True):
        if formula == "code":
            front = losses(pareto_set(200)).numpy()
            panel.plot(*front.T, color="0.6", linewidth=7, zorder=1, label="Pareto front")
        for start in range(len(STARTS)):
            pairs = losses(one.path(start), formula).numpy()
            segments = np.stack([pairs[:-1], pairs[1:]], axis=1)
            shades = LineCollection(list(segments), cmap="magma_r", linewidths=1.3, zorder=3)
            shades.set_array(np.linspace(0, 1, len(segments)))
            shades.set_clim(-0.2, 1.3)  # leaves out the lightest and darkest colours
            panel.add_collection(shades)
            panel.plot(*pairs[0], "o", color="black", markersize=6, zorder=4)
            full = one.outcomes[start] == ARRIVED
            panel.plot(
                *pairs[-1],
                "*",
                markersize=13,
                markeredgecolor="tab:red",
                markerfacecolor="tab:red" if full else "white",
                zorder=5,
            )
        name = NAMES.get(one.alpha)
        title = f"α = {one.alpha:g}" + (f" ({name})" if name else "")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("$L_1$")
        panel.autoscale_view()
    panels[0].set_ylabel("$L_2$")
    if formula == "code":
        panels[0].legend(loc="upper left", fontsize=8)
    write_atomic(path, image(figure, "png", dpi=150))
