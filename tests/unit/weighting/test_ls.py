"""Linear scalarisation: the sum or the mean of the losses."""

import pytest
import torch

from mtrl_fairgrad.weighting import LS
from tests.support.errors import refused


@pytest.mark.parametrize(("reduction", "share"), [("sum", 1.0), ("mean", 0.25)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_weights_are_equal(reduction: str, share: float, batch: tuple[int, ...]) -> None:
    losses = torch.randn(*batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights, diagnostics = LS(reduction)(losses.requires_grad_())
    assert torch.equal(weights, torch.full((*batch, 4), share, dtype=torch.float64))
    assert not weights.requires_grad
    assert diagnostics == {}


def test_losses_do_not_matter() -> None:
    assert torch.equal(LS()(torch.tensor([torch.nan, -1.0])).weights, torch.ones(2))


@pytest.mark.parametrize("reduction", ["average", "", None, 1])
def test_other_reductions_are_refused(reduction: object) -> None:
    with refused("reduction", reduction):
        LS(reduction)
