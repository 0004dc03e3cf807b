"""DWA: plain numpy, by hand, and another library's epochs."""

import numpy as np
import pytest
import torch
from torchjd import scalarization

from mtrl_fairgrad.weighting import DWA
from tests.support.errors import refused
from tests.unit.weighting.helpers import loss_course


def by_rates(rates: np.ndarray, temperature: float) -> np.ndarray:
    exponentials = np.exp(rates / temperature)
    return len(rates) * exponentials / exponentials.sum()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sliding_windows_by_numpy(temperature: float) -> None:
    method, course = DWA(temperature, window=4).init(3), loss_course(20, 3)
    for call, losses in enumerate(course):
        found = method(losses)
        seen = course[: call + 1].numpy()
        rates = np.ones(3) if len(seen) < 8 else seen[-4:].mean(0) / seen[-8:-4].mean(0)
        np.testing.assert_allclose(found.diagnostics["rate"], rates, rtol=1e-14)
        np.testing.assert_allclose(found.weights, by_rates(rates, temperature), rtol=1e-14)


@pytest.mark.parametrize("window", [1, 3])
def test_windows_as_long_as_epochs_are_torchjds_dwa(window: int) -> None:
    ours, theirs = DWA(window=window, sliding=False).init(3), scalarization.DWA()
    changed = set()
    for call, losses in enumerate(loss_course(6 * window, 3)):
        (expected,) = torch.autograd.grad(theirs(losses.requires_grad_()), losses)
        found = ours(losses)
        torch.testing.assert_close(found.weights, expected, rtol=1e-14, atol=0)
        changed.add(tuple(found.weights.tolist()))
        if (call + 1) % window == 0:
            theirs.step()
    assert len(changed) == 5, "equal for two epochs, then others in every epoch"


def test_a_task_that_stopped_falling_weighs_more() -> None:
    method = DWA(window=1).init(2)
    method(torch.tensor([8.0, 5.0]))
    found = method(torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(
        found.diagnostics["rate"], torch.tensor([0.25, 1.0], dtype=torch.float64)
    )
    assert found.weights[1] > 1 > found.weights[0]
    torch.testing.assert_close(found.weights.sum(), torch.tensor(2.0))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": float("inf")},
        {"window": 0},
        {"window": 2.5},
        {"sliding": "no"},
        {"sliding": 1},
    ],
)
def test_other_options_are_refused(options: dict[str, object]) -> None:
    ((name, value),) = options.items()
    with refused(name, value):
        DWA(**options)
