"""MGDA is never longer than TorchJD's truncated search."""

import itertools

import torch
from torch import Tensor
from torchjd.aggregation import MGDA as TorchJDMGDA  # noqa: N811

from mtrl_fairgrad.weighting.mgda import MGDA
from tests.unit.weighting.samplers import STRATA


def weights(jacobian: Tensor, **options: str) -> Tensor:
    return MGDA(**options)(jacobian @ jacobian.T).weights


def test_never_longer_than_torchjds_truncated_search() -> None:
    shorter = 0
    for name, tasks, seed in itertools.product(
        ["ordinary", "aligned", "conflicting"], [2, 5, 10], range(3)
    ):
        jacobian = STRATA[name](tasks, torch.Generator().manual_seed(seed))
        gramian = jacobian @ jacobian.T
        ours = (weights(jacobian) @ jacobian).norm()
        theirs = (TorchJDMGDA().gramian_weighting(gramian) @ jacobian).norm()
        assert ours <= theirs * (1 + 1e-12)
        patient = (
            TorchJDMGDA(epsilon=1e-9, max_iters=20000).gramian_weighting(gramian) @ jacobian
        ).norm()
        torch.testing.assert_close(ours, patient, rtol=0.03, atol=0.0)
        shorter += int(theirs > ours * (1 + 1e-6))
    assert shorter
