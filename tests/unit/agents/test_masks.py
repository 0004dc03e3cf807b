"""Masked rows of stacked tensors."""

import math

import pytest
import torch

from mtrl_fairgrad.agents.masks import (
    RowSnapshot,
    move_masked,
    move_towards,
    preserve_rows,
)

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


@pytest.mark.parametrize("move", [move_towards, move_masked])
@pytest.mark.parametrize("rows", [[False], [True], [False, True, False], [True] * 3], ids=str)
def test_targets_move_by_the_share_except_in_the_selected_rows(move, rows):
    rows = torch.tensor(rows)
    targets = [torch.randn(len(rows), *shape) for shape in ((), (4,), (2, 3))]
    sources = [torch.randn_like(target) for target in targets]
    before, addresses = [t.clone() for t in targets], [t.data_ptr() for t in targets]
    move(targets, sources, 0.25, rows)
    for target, source, old in zip(targets, sources, before, strict=True):
        assert torch.equal(target[rows], old[rows])
        torch.testing.assert_close(target[~rows], (old + 0.25 * (source - old))[~rows])
    assert [t.data_ptr() for t in targets] == addresses
