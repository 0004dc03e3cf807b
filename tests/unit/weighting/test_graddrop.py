"""GradDrop against the paper's algorithm entry by entry, hand algebra and TorchJD."""

import math

import pytest
import torch
from torch import Tensor
from torchjd.aggregation import GradDrop as TorchJDGradDrop

from mtrl_fairgrad.weighting import GradDrop
from tests.support.errors import refused
from tests.unit.weighting.helpers import as_jacobian, as_vector
from tests.unit.weighting.samplers import SAMPLERS, STRATA, Sampler

ALL: dict[str, Sampler] = SAMPLERS | STRATA


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def combined(gradients: Tensor, uniform: Tensor, leak: float = 0.0) -> Tensor:
    jacobian = as_jacobian(gradients)
    method = GradDrop(leak).init(len(gradients), template=jacobian)
    return as_vector(method(jacobian, noise=uniform).direction)


def by_the_paper(gradients: Tensor, uniform: Tensor, leak: float) -> Tensor:
    """One coordinate and one task after the other."""
    total = torch.zeros_like(uniform)
    for c in range(gradients.shape[1]):
        absolute = gradients[:, c].abs().sum()
        if absolute == 0:
            continue
        purity = 0.5 * (1 + gradients[:, c].sum() / absolute)
        for entry in gradients[:, c]:
            kept = (entry > 0 and purity > uniform[c]) or (entry < 0 and purity < uniform[c])
            total[c] += entry * (leak + (1 - leak) * float(kept))
    return total


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ALL)
def test_the_papers_algorithm(name: str, tasks: int, leak: float) -> None:
    for seed in range(3):
        gradients = ALL[name](tasks, generator(seed))
        uniform = torch.rand(2 * tasks, generator=generator(seed + 9), dtype=torch.float64)
        expected = by_the_paper(gradients, uniform, leak)
        found = combined(gradients, uniform, leak)
        torch.testing.assert_close(
            found, expected, rtol=0, atol=1e-14 * float(gradients.abs().sum())
        )


@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torchjd_with_the_same_numbers(name: str, tasks: int, dtype: torch.dtype) -> None:
    """It draws from the global generator, one number per coordinate and in the gradients' dtype."""
    gradients = SAMPLERS[name](tasks, generator(tasks)).to(dtype)
    jacobian = as_jacobian(gradients)
    method = GradDrop(0.2).init(tasks, template=jacobian)
    torch.manual_seed(5)
    theirs = TorchJDGradDrop(leak=torch.full((tasks,), 0.2, dtype=dtype))(gradients)
    found = as_vector(method(jacobian, noise=method.draw([generator(5)])).direction)
    size = float(torch.finfo(dtype).eps * 10 * gradients.abs().sum())
    torch.testing.assert_close(found, theirs, rtol=0, atol=size)


def test_two_tasks_by_hand() -> None:
    """The second coordinate is 3/4 positive, the last nobody's."""
    jacobian = {"a": torch.tensor([[1.0, 3.0, -2.0, 0.0], [2.0, -1.0, -3.0, 0.0]])}
    method = GradDrop().init(2, template=jacobian)
    for uniform, won in [(0.74, 3.0), (0.76, -1.0)]:
        direction, diagnostics = method(jacobian, noise=torch.full((4,), uniform))
        assert torch.equal(direction["a"], torch.tensor([3.0, won, -5.0, 0.0]))
        torch.testing.assert_close(
            diagnostics["kept"], torch.tensor((8 + abs(won)) / 12, dtype=torch.float64)
        )
    leaking = GradDrop(leak=0.5).init(2, template=jacobian)(jacobian, noise=torch.full((4,), 0.74))
    assert torch.equal(leaking.direction["a"], torch.tensor([3.0, 2.5, -5.0, 0.0]))


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-24])
def test_agreeing_signs_are_kept_whatever_is_drawn(uniform: float) -> None:
    signs = torch.tensor([1.0, -1.0, 0.0]).repeat(100)[:202]
    gradients = signs * torch.rand(4, 202, generator=generator(0))
    jacobian = as_jacobian(gradients)
    direction, diagnostics = GradDrop().init(4, template=jacobian)(
        jacobian, noise=torch.full((202,), uniform)
    )
    torch.testing.assert_close(as_vector(direction), gradients.sum(0))
    assert diagnostics["kept"] == 1


def test_its_expectation_is_the_sum() -> None:
    gradients = torch.randn(5, 4, generator=generator(0), dtype=torch.float64)
    steps = (torch.arange(10000, dtype=torch.float64)[:, None] + 0.5) / 10000
    many = {"a": gradients.expand(10000, 5, 4)}
    method = GradDrop().init(5, (10000,), template=many)
    mean = method(many, noise=steps.expand(10000, 4)).direction["a"].mean(0)
    torch.testing.assert_close(mean, gradients.sum(0), rtol=0, atol=1e-3)


def test_numbers_follow_the_templates_sizes_order_and_dtype() -> None:
    template = {"b": torch.ones(2, 3, 4, 5), "a": torch.ones(2, 3), "c": torch.ones(2, 3, 7)}
    method = GradDrop().init(3, (2,), template)
    noise = method.draw([generator(0), generator(1)])
    assert noise.shape == (2, 28) and noise.dtype == torch.float32
    assert ((noise >= 0) & (noise < 1)).all()
    assert torch.equal(noise[1], torch.rand(28, generator=generator(1)))
    found = method(template, noise=noise).direction
    other_order = method({name: template[name] for name in "cab"}, noise=noise).direction
    assert list(found) == ["b", "a", "c"]
    assert [tuple(part.shape) for part in found.values()] == [(2, 4, 5), (2,), (2, 7)]
    assert all(torch.equal(found[name], other_order[name]) for name in template)
    double = GradDrop().init(1, template={"a": torch.ones(1, dtype=torch.float64)})
    half = GradDrop().init(1, template={"a": torch.ones(1, dtype=torch.bfloat16)})
    assert double.draw([generator(0)]).dtype == torch.float64
    assert half.draw([generator(0)]).dtype == torch.bfloat16


@pytest.mark.parametrize("leak", [-0.1, 1.1, math.nan, True, "0"])
def test_bad_leak(leak: object) -> None:
    with refused("leak", leak):
        GradDrop(leak)


def test_missing_and_misshapen_numbers_are_refused() -> None:
    jacobian = {"a": torch.ones(2, 3)}
    method = GradDrop().init(2, template=jacobian)
    with pytest.raises(ValueError, match="graddrop is random: "):
        method(jacobian)
    with pytest.raises(ValueError, match=r"noise of shape \(2, 3\) is not allowed: give \(3,\)"):
        method(jacobian, noise=torch.rand(2, 3))
    with pytest.raises(ValueError, match=r"^graddrop .*init"):
        GradDrop().draw([generator(0)])


def test_print_shows_what_it_is() -> None:
    assert "leak=0.25" in repr(GradDrop(0.25))
