"""The Gramian of half-batches has no bias, and its projection is the nearest Gramian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad import GramianWeighting, Weights, combine
from mtrl_fairgrad.weighting.half_batches import (
    check_halves,
    ratio_of_squares,
    rows_of_halves,
    unbiased_gramian,
    whole_gramian,
)
from mtrl_fairgrad.weighting.solvers.projection import projected

DRAWS, TASKS, SIZE, BATCH = 10_000, 3, 5, 4


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(tasks: int, seed: int) -> Tensor:
    """A matrix with positive diagonal that is no Gramian."""
    matrix = normal(tasks, tasks, seed=seed)
    matrix = (matrix + matrix.T) / 2
    return matrix + torch.diag(normal(tasks, seed=seed + 1).abs() + 0.3 - matrix.diagonal())


# ---- the estimate ----


def test_the_blocks_are_those_of_the_halves() -> None:
    a, b = normal(2, 3, 7).unbind()
    rows = torch.stack([a, b], 1).flatten(0, 1)
    halves = rows @ rows.T
    mean = (a + b) / 2
    torch.testing.assert_close(unbiased_gramian(halves), (a @ b.T + b @ a.T) / 2)
    torch.testing.assert_close(whole_gramian(halves), mean @ mean.T)
    weights = normal(3)
    torch.testing.assert_close(rows_of_halves(weights / 2) @ rows, weights @ mean)


class Watching(GramianWeighting):
    """Equal weights; keeps the Gramians it sees."""

    name = "watching"

    def __init__(self, splits: bool) -> None:
        super().__init__()
        self.splits = splits

    @property
    def splits_batch(self) -> bool:
        return self.splits

    def forward(self, gramian: Tensor) -> Weights:
        self.seen = gramian
        tasks = gramian.shape[-1] // (2 if self.splits else 1)
        return Weights(gramian.new_ones(*gramian.shape[:-2], tasks), {})


def quadratic(shared: Any, context: Any, own: Any, scale: Tensor, target: Tensor) -> Any:
    """½‖scale·(x − target)‖², averaged over the batch: its gradient's noise is the target's."""
    errors = scale * (shared["x"] - target)
    return errors.square().sum(-1).mean() / 2, {}


def seen_on_quadratics(splits: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the Gramians of many draws `[DRAWS, ...]`, the noise-free one, and the noise's traces
    `[K]`."""
    deviations = torch.tensor([1.0, 1.0, 3.0], dtype=torch.float64)
    scales = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    centres, point = normal(TASKS, SIZE, seed=1), normal(SIZE, seed=2)
    centres[2] = point  # a task that has converged
    noise = normal(DRAWS, TASKS, BATCH, SIZE, seed=3)
    targets = centres[:, None] + deviations[:, None, None] * noise
    method = Watching(splits)
    combine(
        method, quadratic, {"x": point.expand(DRAWS, SIZE)}, scales.expand(DRAWS, TASKS), targets
    )
    expected = scales[:, None] ** 2 * (point - centres)
    traces = SIZE * (scales**2 * deviations).square() / BATCH
    return method.seen, expected @ expected.T, traces


def standard_errors_off(found: Tensor, expected: Tensor) -> Tensor:
    return (found.mean(0) - expected).abs() / (found.std(0) / DRAWS**0.5)


def test_its_mean_is_the_gramian_without_noise() -> None:
    seen, expected, _ = seen_on_quadratics(splits=True)
    assert standard_errors_off(unbiased_gramian(seen), expected).max() < 4


def test_the_plain_diagonal_is_off_by_the_trace_of_the_noise() -> None:
    seen, expected, traces = seen_on_quadratics(splits=False)
    assert standard_errors_off(seen, expected + torch.diag(traces)).max() < 4
    halves, _, _ = seen_on_quadratics(splits=True)
    torch.testing.assert_close(whole_gramian(halves), seen)
    bias = standard_errors_off(seen, expected)
    assert bias.diagonal().min() > 20
    assert (bias - torch.diag(bias.diagonal())).max() < 4


def test_the_signal_is_a_part_of_the_squared_norm() -> None:
    unbiased, whole = torch.tensor([[2.0, 9], [9, -1]]), torch.tensor([[8.0, 9], [9, 2]])
    assert ratio_of_squares(unbiased, whole).tolist() == [0.25, -0.5]
    assert ratio_of_squares(torch.zeros(2, 2), torch.zeros(2, 2)).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(4,), (2, 4), (3, 3), (2, 5, 5)])
def test_a_matrix_without_halves_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"give \[\.\.\., 2K, 2K\]"):
        check_halves(torch.ones(shape))


# ---- the projection ----


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_the_projection_is_the_nearest_gramian_to_the_cosines(tasks: int) -> None:
    moved = 0
    for seed in range(10):
        given = symmetric(tasks, seed)
        scale = given.diagonal().sqrt()
        cosines, found = (
            matrix / scale / scale[:, None]
            for matrix in (given, torch.from_numpy(projected(given.numpy())))
        )
        step = found - cosines
        # What characterises the projection onto the cone of positive semi-definite matrices.
        assert torch.linalg.eigvalsh(found).min() > -1e-12
        assert torch.linalg.eigvalsh(step).min() > -1e-12
        assert abs((step * found).sum()) < 1e-10
        moved += int(step.abs().max() > 1e-6)
    assert moved


def test_a_gramian_stays_as_it_is() -> None:
    rows = normal(4, 9)
    gramian = (rows @ rows.T).numpy()
    assert (projected(gramian) == gramian).all()


def test_a_factor_on_a_tasks_gradients_remains_one() -> None:
    given = symmetric(5, 3)
    factors = torch.tensor([1.0, 1e-3, 10.0, 0.5, 1e4], dtype=torch.float64)
    scaled = given * factors * factors[:, None]
    expected = torch.from_numpy(projected(given.numpy())) * factors * factors[:, None]
    assert torch.linalg.eigvalsh(given).min() < 0
    torch.testing.assert_close(
        torch.from_numpy(projected(scaled.numpy())), expected, rtol=1e-9, atol=0
    )


def test_tasks_without_a_discernible_gradient_are_cleared() -> None:
    given = symmetric(4, 5)
    given[1, 1] = -0.1
    given[2, 2] = 0.05 * given.diagonal().max()
    for smallest, left in ((0.0, [0, 2, 3]), (0.5, [0, 3])):
        found = torch.from_numpy(projected(given.numpy(), smallest))
        others = [task for task in range(4) if task not in left]
        assert (found[others] == 0).all() and (found[:, others] == 0).all()
        expected = projected(given[left][:, left].numpy())
        torch.testing.assert_close(found[left][:, left], torch.from_numpy(expected))
    assert (projected(-torch.eye(3).double().numpy()) == 0).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_bad_element_stays_alone(poison: float) -> None:
    given = torch.stack([symmetric(3, 0), symmetric(3, 1)])
    clean = torch.from_numpy(projected(given.numpy()))
    given[0, 1, 2] = poison
    found = torch.from_numpy(projected(given.numpy()))
    assert found[0].isnan().all()
    assert torch.equal(found[1], clean[1])
