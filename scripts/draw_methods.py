"""Draw each method's direction on two conflicting gradients for docs/methods/.

    python scripts/draw_methods.py [METHOD ...] [--out docs/assets/methods]

Left: `g_1 = (1, 0)`, `g_2 = (−½, 2)` and the direction of each setting in `SETTINGS`, scaled to
length 1, over the cone of directions that harm neither task. Right: the direction's angle from
`g_1` while the length of `g_2` goes from a hundredth to a hundred times that of `g_1`, with the
range in which neither task is harmed. The losses are 0.5 and 2.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mtrl_fairgrad import Method, make_method, method_names  # noqa: E402
from mtrl_fairgrad.utils.entry_point import entry_point  # noqa: E402

GRADIENTS = ((1.0, 0.0), (-0.5, 2.0))
LOSSES = torch.tensor([0.5, 2.0], dtype=torch.float64)
LENGTHS = np.geomspace(0.01, 100, 61)
COLORS = ("#3949ab", "#d81b60", "#00897b", "#fb8c00")
TASKS, CONE = "#555555", "#c8e6c9"


@dataclass(frozen=True)
class Setting:
    """One curve of a picture: its label, options of the method, losses before, calls, draws."""

    label: str
    options: dict[str, object]
    before: tuple[float, ...] = ()
    """Losses of a first call, for methods with a history."""
    calls: int = 1
    """Calls with the same gradients; the last one is shown."""
    draws: int = 1
    """Random numbers to show, one direction each."""


def _plain(*options: dict[str, object]) -> tuple[Setting, ...]:
    labels = [", ".join(f"{key} = {value}" for key, value in each.items()) for each in options]
    return tuple(Setting(label, each) for label, each in zip(labels, options, strict=True))


SETTINGS: dict[str, tuple[Setting, ...]] = {
    "fairgrad": tuple(Setting(f"α = {alpha}", {"alpha": alpha}) for alpha in (0, 1, 2, 10)),
    "cagrad": _plain({"c": 0.2}, {"c": 0.4}, {"c": 0.9}),
    "mgda": _plain({"normalize": "none"}, {"normalize": "l2"}),
    "stl": _plain({"task": 0}, {"task": 1}),
    "rlw": (Setting("eight draws", {}, draws=8),),
    "graddrop": (Setting("eight draws", {}, draws=8),),
    "dwa": (Setting("loss 2 has halved", {"window": 1}, before=(0.5, 4.0)),),
    "uw": (Setting("after 300 calls", {}, calls=300),),
    "stch": (Setting("loss 2 has halved", {"warmup": 1}, before=(0.5, 4.0)),),
    "moco": (Setting("after 200 calls", {}, calls=200),),
}
"""Settings of the methods whose picture is not that of their default options in one call."""


def directions(name: str, setting: Setting, jacobian: Tensor) -> Iterator[Tensor]:
    """Yield the direction `[2]` of each draw for a Jacobian `[2, 2]`, whose rows are gradients."""
    for draw in range(setting.draws):
        method = make_method(name, **setting.options)
        rows = {"d": jacobian}
        method.init(tasks=2, template=rows)
        call = _caller(method, rows)
        generator = torch.Generator().manual_seed(draw)
        if setting.before:
            call(torch.tensor(setting.before, dtype=torch.float64), generator)
        direction = torch.zeros(2)
        for _ in range(setting.calls):
            direction = call(LOSSES, generator)
        yield direction


def _caller(method: Method, rows: dict[str, Tensor]) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return a function from losses and a generator to the direction `[2]`."""

    def call(losses: Tensor, generator: torch.Generator) -> Tensor:
        observed = method.observe(losses, rows, 0)
        inputs = method.accepted(losses=losses, noise=method.draw([generator]))
        return method.direction(method(observed, **inputs), observed, rows).direction["d"]

    return call


def angle(direction: Tensor) -> float:
    """Return the angle from `g_1` in degrees; NaN without a direction."""
    x, y = direction.double().tolist()
    return math.degrees(math.atan2(y, x)) if math.hypot(x, y) > 0 else math.nan


def turned(name: str, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Return lengths of `g_2` and for each draw the angles `[draws, lengths]`."""
    first, second = torch.tensor(GRADIENTS, dtype=torch.float64)
    lengths = LENGTHS if setting.calls == 1 else LENGTHS[::6]
    columns = [
        [
            angle(each)
            for each in directions(
                name, setting, torch.stack([first, length * second / second.norm()])
            )
        ]
        for length in lengths
    ]
    return lengths, np.array(columns).T


# ---- drawing: plain SVG, so that the files are small and depend on no other package ----

WIDTH, HEIGHT = 600, 310
PLANE = (5, 34, 260, 222)
"""Left, top, width and height of the left panel."""
CURVES = (325, 40, 235, 190)
"""Of the right panel."""


def draw(name: str) -> str:
    """Return the picture of a method as SVG."""
    settings = SETTINGS.get(name, (Setting("", {}),))
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="system-ui, sans-serif" font-size="15">',
        f"<title>The direction of {name} for two conflicting gradients</title>",
        "<defs>",
        *(_arrow_head(color) for color in (TASKS, *COLORS)),
        "</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *_plane(name, settings),
        *_curves(name, settings),
        *_legend(settings),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _plane(name: str, settings: Sequence[Setting]) -> Iterator[str]:
    """Yield the gradients, the cone that harms no task, and the directions."""
    left, top, width, height = PLANE
    scale = height / 2.5

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (x + 1) * scale, top + height - (y + 0.25) * scale

    jacobian = torch.tensor(GRADIENTS, dtype=torch.float64)
    between = math.radians(angle(jacobian[1]))
    corners = [(0.0, 0.0)]
    for step in range(21):
        turn = between - math.pi / 2 + (math.pi - between) * step / 20
        corners.append((1.95 * math.cos(turn), 1.95 * math.sin(turn)))
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*corner) for corner in corners))
    yield _text(left + width / 2, 22, "green: no task is harmed")
    yield f'<polygon points="{points}" fill="{CONE}"/>'
    for row, label in zip(GRADIENTS, ("1", "2"), strict=True):
        yield _arrow(at(0, 0), at(*row), TASKS, 1.6)
        x, y = at(*row)
        yield _label(x + 8, y + (4 if label == "1" else -2), label)
    for setting, color in zip(settings, COLORS, strict=False):
        for each in directions(name, setting, jacobian):
            x, y = (each.double() / each.double().norm() * 1.6).tolist()
            yield _arrow(at(0, 0), at(x, y), color, 2 if setting.draws == 1 else 1.1)


def _curves(name: str, settings: Sequence[Setting]) -> Iterator[str]:
    """Yield the direction's angle over the length of `g_2`."""
    left, top, width, height = CURVES
    between = angle(torch.tensor(GRADIENTS[1]))
    low, high = -10.0, between + 10
    decades = math.log10(LENGTHS[-1] / LENGTHS[0])

    def x_of(length: float) -> float:
        return left + width * math.log10(length / LENGTHS[0]) / decades

    def y_of(degrees: float) -> float:
        return top + height * (high - degrees) / (high - low)

    yield _text(left + width / 2, 22, "angle of the direction from g₁")
    start, end = y_of(90), y_of(between - 90)
    yield f'<path d="M{left} {start:.1f}h{width}V{end:.1f}h{-width}z" fill="{CONE}"/>'
    yield (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>'
    )
    for degrees in (0, 30, 60, 90):
        yield _text(left - 6, y_of(degrees) + 4, f"{degrees}°", "end", 13)
    for length in (0.01, 0.1, 1, 10, 100):
        yield _text(x_of(length), top + height + 18, f"{length:g}", size=13)
    yield _text(left + width / 2, top + height + 40, "length of g₂ relative to g₁", size=14)
    for degrees, label in ((0.0, "1"), (between, "2")):
        y = y_of(degrees)
        yield (
            f'<path d="M{left} {y:.1f}h{width}" stroke="{TASKS}" stroke-dasharray="2 3" '
            'fill="none"/>'
        )
        yield _label(left + width + 5, y + 4, label)
    for setting, color in zip(settings, COLORS, strict=False):
        lengths, drawn = turned(name, setting)
        for angles in drawn:
            kept = [pair for pair in zip(lengths, angles, strict=True) if math.isfinite(pair[1])]
            points = " ".join(f"{x_of(length):.1f},{y_of(turn):.1f}" for length, turn in kept)
            line_width = 2 if len(drawn) == 1 else 1.1
            yield (
                f'<polyline points="{points}" fill="none" stroke="{color}" '
                f'stroke-width="{line_width}"/>'
            )


def _legend(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield the labels of the settings, below the panels."""
    x = 20.0
    for setting, color in zip(settings, COLORS, strict=False):
        if setting.label:
            yield f'<path d="M{x:.0f} 296h18" stroke="{color}" stroke-width="3"/>'
            yield _text(x + 24, 301, setting.label, "start", 14)
            x += 46 + 8 * len(setting.label)


def _arrow_head(color: str) -> str:
    return (
        f'<marker id="{color[1:]}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" '
        f'markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 0 10 5 0 10z" fill="{color}"/></marker>'
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], color: str, width: float) -> str:
    return (
        f'<path d="M{start[0]:.1f} {start[1]:.1f}L{end[0]:.1f} {end[1]:.1f}" stroke="{color}" '
        f'stroke-width="{width}" marker-end="url(#{color[1:]})"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = 15) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="#333">'
        f"{text}</text>"
    )


def _label(x: float, y: float, number: str) -> str:
    """Return the name of a gradient."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{TASKS}" font-style="italic">g<tspan '
        f'baseline-shift="sub" font-size="11">{number}</tspan></text>'
    )


@entry_point
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pictures of the named methods, by default of all; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", default=method_names(), metavar="METHOD")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "assets" / "methods")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.methods:
        (options.out / f"{name}.svg").write_text(draw(name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
