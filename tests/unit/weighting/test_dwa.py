"""DWA: plain numpy, by hand, and another library's epochs."""

import numpy as np
import pytest
import torch
from torchjd import scalarization

from mtrl_fairgrad.weighting import DWA
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
    ("options", "said"),
    [
        (
            {"temperature": 0},
            "temperature=0 is not allowed: give a finite positive number, such as 2.",
        ),
        (
            {"temperature": float("inf")},
            "temperature=inf is not allowed: give a finite positive number, such as 2.",
        ),
        ({"window": 0}, "window=0 is not allowed: give a whole number of at least 1, such as 25."),
        (
            {"window": 2.5},
            "window=2.5 is not allowed: give a whole number of at least 1, such as 25.",
        ),
        ({"sliding": "no"}, "sliding='no' is not allowed: give true or false."),
        ({"sliding": 1}, "sliding=1 is not allowed: give true or false."),
    ],
)
def test_other_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        DWA(**options)
    assert str(caught.value) == said
