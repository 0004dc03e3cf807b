"""STL: one task alone."""

import pytest
import torch

from mtrl_fairgrad.weighting import STL
from tests.support.errors import refused


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_one_task_has_weight_one_whatever_the_losses(batch: tuple[int, ...]) -> None:
    losses = torch.full((*batch, 4), torch.nan)
    found = STL(task=2)(losses)
    assert torch.equal(found.weights, torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(*batch, 4))
    assert found.diagnostics == {}
    assert torch.equal(STL()(losses).weights[..., 0], torch.ones(batch))


def test_a_task_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^task=3 .* 3 tasks.* 0 to 2\.$"):
        STL(task=3)(torch.ones(2, 3))


@pytest.mark.parametrize("task", [-1, 1.0, True, "0", None])
def test_other_options_are_refused(task: object) -> None:
    with refused("task", task):
        STL(task)
