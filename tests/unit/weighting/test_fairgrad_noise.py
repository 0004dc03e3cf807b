"""FairGrad's responses to noise: state, hand algebra, and noisy quadratics with known answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.weighting import FairGrad, Weights, alpha_fair
from mtrl_fairgrad.weighting.half_batches import rows_of_halves, whole_gramian
from tests.support.errors import refused

CALLS = 8
RESPONSES: dict[str, dict[str, Any]] = {
    "half_batches": {"gramian": "half_batches"},
    "average": {"gramian_decay": 0.7},
    "kept": {"solve_every": 3},
    "bounded": {"weight_ratio": 1.5},
    "length": {"length": "ls"},
    "all": {
        "gramian": "half_batches",
        "gramian_decay": 0.7,
        "solve_every": 3,
        "weight_ratio": 2.0,
        "length": "ls",
    },
}
STATES = {
    "half_batches": set[str](),
    "average": {"calls", "average"},
    "kept": {"calls", "kept", "kept_residual"},
    "bounded": set[str](),
    "length": set[str](),
    "all": {"calls", "average", "kept", "kept_residual"},
}
every = pytest.mark.parametrize("name", RESPONSES)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def course(*batch: int, halves: bool, calls: int = CALLS, seed: int = 0) -> Tensor:
    """Gramians `[calls, *batch, K, K]` of three tasks with noise, or `[calls, *batch, 2K, 2K]`."""
    means = 2 * normal(*batch, 3, 1, 12, seed=seed)
    rows = means + normal(calls, *batch, 3, 2, 12, seed=seed + 1)
    rows = rows.flatten(-3, -2) if halves else rows.mean(-2)
    return rows @ rows.mT


def given(name: str, *batch: int, **options: Any) -> Tensor:
    return course(*batch, halves=name in ("half_batches", "all"), **options)


def made(name: str, *batch: int, **options: Any) -> FairGrad:
    return FairGrad(2.0, **RESPONSES[name], **options).init(3, batch)


def same(found: Weights, expected: Weights) -> bool:
    pairs = [(found.weights, expected.weights)]
    pairs += [(found.diagnostics[key], value) for key, value in expected.diagnostics.items()]
    return all(torch.equal(*(each.nan_to_num(nan=-7.0) for each in pair)) for pair in pairs)


# ---- options and state ----


@pytest.mark.parametrize(
    "option",
    [
        {"gramian": "halves"},
        {"gramian_decay": 1.0},
        {"gramian_decay": -0.1},
        {"gramian_decay": math.nan},
        {"solve_every": 0},
        {"solve_every": 1.5},
        {"weight_ratio": 0.9},
        {"weight_ratio": math.inf},
        {"weight_ratio": "3"},
        {"length": "mean"},
    ],
    ids=str,
)
def test_bad_options(option: dict[str, object]) -> None:
    ((name, value),) = option.items()
    with refused(name, value):
        FairGrad(**option)  # pyright: ignore[reportArgumentType]


def test_what_the_state_depends_on_is_fixed_by_init() -> None:
    method = FairGrad().init(3)
    for name, value in (("gramian", "half_batches"), ("gramian_decay", 0.5), ("solve_every", 2)):
        with refused(name, value):
            setattr(method, name, value)
    method.weight_ratio, method.length = 2.0, "ls"


@every
def test_state_is_only_what_an_option_needs(name: str) -> None:
    assert dict(made(name, 2).named_buffers()).keys() == STATES[name]
    assert not dict(FairGrad().init(3, (2,)).named_buffers())


@every
def test_print_shows_the_responses(name: str) -> None:
    shown = repr(made(name))
    assert all(f"{key}={value}" in shown for key, value in RESPONSES[name].items())
    assert "solve_every" not in repr(FairGrad())


@every
def test_state_is_saved_and_forgotten(name: str) -> None:
    method, gramians = made(name, 2), given(name, 2)
    answers = [method(gramian) for gramian in gramians[:4]]
    other = made(name, 2)
    other.load_state_dict(method.state_dict())
    for gramian in gramians[4:]:
        assert same(method(gramian), other(gramian))
    method.reset()
    for gramian, answer in zip(gramians, answers, strict=False):
        assert same(method(gramian), answer)


@every
def test_many_at_once_are_as_one_by_one(name: str) -> None:
    gramians = given(name, 3)
    together, alone = made(name, 3), [made(name) for _ in range(3)]
    for gramian in gramians:
        found = together(gramian)
        for i, method in enumerate(alone):
            expected = method(gramian[i])
            torch.testing.assert_close(found.weights[i], expected.weights, rtol=1e-12, atol=0)
            for key, value in expected.diagnostics.items():
                torch.testing.assert_close(found.diagnostics[key][i], value, rtol=1e-9, atol=1e-12)


@every
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_a_bad_element_is_nan_and_leaves_its_state_and_others_alone(
    name: str, poison: float
) -> None:
    gramians = given(name, 2)
    method, clean, skipping = made(name, 2), made(name, 2), made(name, 2)
    for call, gramian in enumerate(gramians):
        expected = clean(gramian)
        if call == 3:
            gramian = gramian.clone()
            gramian[0, 1, 2] = gramian[0, 2, 1] = poison
            before = {key: value.clone() for key, value in method.named_buffers()}
            found = method(gramian)
            assert found.weights[0].isnan().all()
            assert found.diagnostics["residual"][0].isnan()
            assert found.diagnostics["min_progress"][0].isnan()
            assert not found.diagnostics["converged"][0]
            assert not found.diagnostics["active"][0].any()
            assert all(
                torch.equal(value[0], before[key][0]) for key, value in method.named_buffers()
            )
        else:
            found = method(gramian)
            skipped = skipping(gramian)
            assert torch.equal(found.weights[0], skipped.weights[0])
        assert torch.equal(found.weights[1], expected.weights[1])
        assert torch.equal(
            found.diagnostics["min_progress"][1], expected.diagnostics["min_progress"][1]
        )


@every
def test_single_precision_is_close_to_double(name: str) -> None:
    double, single = made(name), made(name)
    for gramian in given(name):
        expected, found = double(gramian), single(gramian.float())
        assert found.weights.dtype == torch.float32
        torch.testing.assert_close(found.weights.double(), expected.weights, rtol=1e-3, atol=1e-5)


@every
def test_other_shapes_are_refused(name: str) -> None:
    method = made(name)
    with pytest.raises(ValueError, match="shape"):
        method(torch.ones(5, 4))
    if STATES[name]:
        uninitialised = FairGrad(**RESPONSES[name])
        with pytest.raises(ValueError, match="init"):
            uninitialised(given(name)[0])


# ---- the average ----


def test_the_average_is_corrected_for_its_start() -> None:
    method, gramians = FairGrad(2, gramian_decay=0.8).init(3), course(halves=False)
    for calls in range(1, 5):
        powers = 0.8 ** torch.arange(calls - 1, -1, -1, dtype=torch.float64)
        mean = (powers[:, None, None] * gramians[:calls]).sum(0) / powers.sum()
        found = method(gramians[calls - 1])
        expected = FairGrad(2)(mean)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-9, atol=0)
        assert found.diagnostics["residual"] < 1e-9
        # Progress is that of this call's gradients.
        progress = gramians[calls - 1] @ found.weights
        torch.testing.assert_close(found.diagnostics["min_progress"], progress.min())


def test_half_batches_are_averaged_before_they_are_projected() -> None:
    """The average of many estimates is nearly a Gramian; that of many projections is biased."""
    gramians = course(halves=True, calls=400)
    noiseless = 2 * normal(3, 1, 12)[:, 0]
    expected = FairGrad(2)(noiseless @ noiseless.T).weights
    method = FairGrad(2, gramian="half_batches", gramian_decay=0.998).init(3)
    found = [method(gramian).weights for gramian in gramians][-1]
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
    biased = FairGrad(2)(whole_gramian(gramians).mean(0)).weights
    assert (biased / expected - 1).abs().max() > 0.05


# ---- weights that are kept ----


def test_weights_are_renewed_every_nth_call() -> None:
    method, fresh = FairGrad(2, solve_every=3).init(3), FairGrad(2)
    gramians = course(halves=False)
    for call, gramian in enumerate(gramians):
        found, expected = method(gramian), fresh(gramians[call - call % 3])
        assert torch.equal(found.weights, expected.weights)
        for key in ("residual", "converged", "active"):
            assert torch.equal(found.diagnostics[key], expected.diagnostics[key])
        progress = gramian @ found.weights
        torch.testing.assert_close(found.diagnostics["min_progress"], progress.min())


def test_a_solution_that_failed_is_kept_as_one_that_failed() -> None:
    cancelling = torch.tensor([[1.0, -1], [-1, 1]], dtype=torch.float64)
    method = FairGrad(2, solve_every=3).init(2)
    for gramian in (cancelling, torch.eye(2).double(), torch.eye(2).double()):
        answer = method(gramian)
        assert not answer.diagnostics["converged"]
        assert (answer.equal_where_unsolved().weights == 0.5).all()
    assert method(torch.eye(2).double()).diagnostics["converged"]
    assert method(cancelling).diagnostics["converged"], "the weights in use solve their equation"


# ---- half-batches ----


def test_equal_halves_are_the_whole() -> None:
    rows = normal(4, 9)
    twice = rows_of_halves(rows.T).T
    found = FairGrad(2, gramian="half_batches")(twice @ twice.T)
    expected = FairGrad(2)(rows @ rows.T)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.diagnostics["signal"], torch.ones(4).double())
    torch.testing.assert_close(
        found.diagnostics["min_progress"], expected.diagnostics["min_progress"]
    )


def test_a_factor_on_a_tasks_loss_changes_no_direction_at_proportional_fairness() -> None:
    for gramian in course(halves=True, seed=4):
        factors = torch.tensor([1.0, 1e-3, 50.0], dtype=torch.float64)
        both = rows_of_halves(factors)
        method = FairGrad(1, gramian="half_batches")
        expected = method(gramian).weights
        found = method(gramian * both * both[:, None]).weights
        torch.testing.assert_close(found * factors, expected, rtol=1e-6, atol=0)


@every
def test_the_loss_transformation_reaches_it(name: str) -> None:
    losses = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    factors = losses**-0.5
    wrapped, inner = alpha_fair(made(name), 0.5), made(name)
    wrapped.init(3)
    rows = rows_of_halves(factors) if inner.splits_batch else factors
    assert wrapped.splits_batch == inner.splits_batch
    for gramian in given(name):
        found = wrapped(gramian, losses=losses)
        expected = inner(gramian * rows * rows[:, None])
        torch.testing.assert_close(found.weights, expected.weights * factors, rtol=1e-9, atol=0)


# ---- bounds and length ----


def test_bounded_weights_are_the_solution_clipped() -> None:
    gramian = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-6], dtype=torch.float64))
    found = FairGrad(2, weight_ratio=3)(gramian)
    torch.testing.assert_close(found.weights, torch.tensor([1, 1, 1, 3 ** (4 / 3)]).double())
    assert found.diagnostics["converged"]


@pytest.mark.parametrize("solver", ["newton", "sgd", "least_squares"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_the_length_is_that_of_the_mean(solver: str, alpha: float) -> None:
    rows = normal(2, 4, 9)
    found = FairGrad(alpha, solver=solver, length="ls")(rows @ rows.mT).weights
    length = (found.unsqueeze(1) @ rows).norm(dim=-1)
    torch.testing.assert_close(length, rows.mean(1, keepdim=True).norm(dim=-1))
    own = FairGrad(alpha, solver=solver)(rows @ rows.mT).weights
    torch.testing.assert_close(found / found[:, :1], own / own[:, :1])


def test_the_length_is_that_of_whole_batches() -> None:
    for gramian in course(halves=True):
        whole = whole_gramian(gramian)
        weights = FairGrad(2, gramian="half_batches", length="ls")(gramian).weights
        torch.testing.assert_close(weights @ whole @ weights, whole.mean())


# ---- a task that has converged ----

NOISE = 1.0
"""Length of the noise in a gradient of a whole batch."""


def noisy_course(norms: list[float], calls: int, seed: int = 2) -> tuple[Tensor, Tensor]:
    """Rows of halves `[calls, 2K, P]` of orthogonal gradients of these norms with noise, and the
    gradients without noise `[K, P]`."""
    size = 2000
    means = torch.zeros(len(norms), size, dtype=torch.float64)
    means.diagonal().copy_(torch.tensor(norms))
    noise = normal(calls, len(norms), 2, size, seed=seed) * math.sqrt(2 / size) * NOISE
    return (means[:, None] + noise).flatten(1, 2), means


CONVERGED = [3.0, 3.0, 3.0, 0.0]


def shares(method: FairGrad, norms: list[float] = CONVERGED, calls: int = 60) -> Tensor:
    """Return the last task's part of the squared direction `[calls]`."""
    rows, _ = noisy_course(norms, calls)
    method.init(len(norms))
    found = list[Tensor]()
    for each in rows:
        whole = each.unflatten(0, (-1, 2)).mean(1)
        seen = each if method.splits_batch else whole
        weights = method(seen @ seen.T).weights
        found.append((weights[-1] * whole[-1]).square().sum() / (weights @ whole).square().sum())
    return torch.stack(found)


def test_a_converged_task_is_lifted_over_the_others() -> None:
    # Orthogonal gradients: the part is w²‖g‖² = ‖g‖^(2(1−α)/(1+α)) over the sum of these.
    for alpha in (1.0, 2.0, 5.0):
        power = (1 - alpha) / (1 + alpha)
        part, others = (NOISE**2) ** power, (9 + NOISE**2) ** power
        found = shares(FairGrad(alpha))
        torch.testing.assert_close(
            found.mean().item(), part / (part + 3 * others), rtol=0.1, atol=0
        )
    assert shares(FairGrad(2)).mean() > 0.4


def test_half_batches_with_a_least_norm_leave_it_out() -> None:
    assert (shares(FairGrad(2, gramian="half_batches", min_relative_norm=0.3)) == 0).all()
    # The plain Gramian cannot tell its noise from a gradient.
    assert shares(FairGrad(2, min_relative_norm=0.3)).mean() > 0.4


def test_half_batches_alone_lift_it_where_its_estimate_happens_to_be_positive() -> None:
    found = shares(FairGrad(2, gramian="half_batches"))
    assert 0.3 < (found == 0).double().mean() < 0.7
    assert found[found > 0].mean() > shares(FairGrad(2)).mean()


def test_bounds_limit_it() -> None:
    for gramian in ("plain", "half_batches"):
        found = shares(FairGrad(2, gramian=gramian, weight_ratio=1.5))
        # Its weight is at most 1.5^(4/3) times that of the others.
        assert found.max() < 1.2 * 1.5 ** (8 / 3) / (1.5 ** (8 / 3) + 3 * 10)
