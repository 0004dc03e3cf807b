"""Masked rows of stacked tensors."""

import math

import pytest
import torch

from mtrl_fairgrad.agents.masks import RowSnapshot, preserve_rows

ROWS = torch.tensor([False, True, False])


def tensors():
    return [torch.arange(3.0), torch.arange(12.0).view(3, 2, 2)]


@pytest.mark.parametrize("rows", [ROWS, torch.zeros(3, dtype=torch.bool)], ids=["one", "none"])
def test_preserved_rows_keep_their_values_and_the_others_change(rows):
    changed, expected = tensors(), tensors()
    with preserve_rows(rows, changed):
        for value in changed:
            value.mul_(2).add_(1)
    for value, old in zip(changed, expected, strict=True):
        assert torch.equal(value[rows], old[rows])
        assert torch.equal(value[~rows], old[~rows] * 2 + 1)


def test_a_snapshot_restores_rows_in_place_even_from_nan():
    [value, _] = tensors()
    address, snapshot = value.data_ptr(), RowSnapshot([value])
    value.fill_(math.nan)
    snapshot.restore(ROWS)
    assert value.data_ptr() == address and value[1] == 1 and value[[0, 2]].isnan().all()
