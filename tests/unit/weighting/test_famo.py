"""FAMO: the authors' algorithm with autograd and PyTorch's Adam, another library, its order of
calls.
"""

import pytest
import torch
from torch import Tensor
from torchjd import scalarization

from mtrl_fairgrad.weighting import FAMO
from tests.support.errors import refused
from tests.unit.weighting.helpers import loss_course


class Published:
    """The authors' algorithm for one problem: autograd for the weights and for the logits."""

    def __init__(
        self, tasks: int, learning_rate: float, gamma: float, min_loss: float | tuple[float, ...]
    ) -> None:
        self.logits = torch.zeros(tasks, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits], lr=learning_rate, weight_decay=gamma)
        self.min_loss = torch.tensor(min_loss, dtype=torch.float64)

    def weights(self, losses: Tensor) -> Tensor:
        self.before = losses = losses.clone().requires_grad_()
        shares = self.logits.detach().softmax(-1)
        distance = losses - self.min_loss + 1e-8
        constant = (shares / distance).sum().detach()
        (gradient,) = torch.autograd.grad((distance.log() * shares / constant).sum(), losses)
        return gradient

    def update(self, losses: Tensor) -> None:
        before, after = (
            (seen - self.min_loss + 1e-8).log() for seen in (self.before.detach(), losses)
        )
        (self.logits.grad,) = torch.autograd.grad(
            self.logits.softmax(-1), self.logits, grad_outputs=before - after
        )
        self.optimizer.step()


@pytest.mark.parametrize(
    ("gamma", "min_loss"),
    [(0.01, 0.0), (0.0, 0.05), (1.0, 0.0), (0.01, -1.0), (0.01, (0.05, -2.0, 0.0, -0.5))],
)
def test_it_is_the_published_algorithm(gamma: float, min_loss: float | tuple[float, ...]) -> None:
    method = FAMO(learning_rate=0.1, gamma=gamma, min_loss=min_loss).init(4, (2,))
    published = [Published(4, 0.1, gamma, min_loss) for _ in range(2)]
    for before, after in zip(loss_course(30, 2, 4), loss_course(30, 2, 4, seed=1), strict=True):
        found = method(before)
        for row, one in enumerate(published):
            torch.testing.assert_close(
                found.weights[row], one.weights(before[row]), rtol=1e-11, atol=0
            )
            torch.testing.assert_close(
                found.diagnostics["logits"][row], one.logits.detach(), rtol=1e-11, atol=1e-14
            )
            one.update(after[row])
        method.after_step(after)
    assert (found.weights.sum(-1) - 1).abs().max() < 1e-12


def test_it_is_torchjds_famo() -> None:
    method = FAMO(gamma=1e-3, min_loss=0.02).init(3)
    theirs = scalarization.FAMO(3, torch.full((3,), 0.02, dtype=torch.float64)).double()
    for before, after in zip(loss_course(30, 3), loss_course(30, 3, seed=1), strict=True):
        (expected,) = torch.autograd.grad(theirs(before.requires_grad_()), before)
        torch.testing.assert_close(method(before).weights, expected, rtol=1e-11, atol=0)
        theirs.update(after)
        method.after_step(after)


def test_the_task_that_gained_most_gets_less() -> None:
    method, losses = FAMO().init(2), torch.tensor([1.0, 1.0])
    assert torch.equal(method(losses).weights, torch.tensor([0.5, 0.5]))
    method.after_step(torch.tensor([0.5, 0.9]))
    weights = method(losses).weights
    assert weights[0] < 0.5 < weights[1]


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, 0.04, -1.0])
def test_a_faulty_loss_after_the_step_leaves_the_element_where_it_was(fault: float) -> None:
    method, clean = (FAMO(min_loss=0.05).init(3, (2,)) for _ in range(2))
    course = loss_course(5, 2, 3) + 0.1
    for call, losses in enumerate(course):
        remembered = {name: value.clone() for name, value in method.state_dict().items()}
        after = 0.5 * losses + 0.1
        for one in (method, clean):
            assert one(losses).weights.isfinite().all()
        clean.after_step(after)
        if call == len(course) - 1:
            after[0, 2] = fault
        method.after_step(after)
    for name, value in method.state_dict().items():
        assert torch.equal(value[1], clean.state_dict()[name][1])
        assert name == "before" or torch.equal(value[0], remembered[name][0])


@pytest.mark.parametrize("bound", [0.7, -0.7, (0.7, -1.0)])
def test_losses_below_the_bound_are_answered_nan(bound: float | tuple[float, float]) -> None:
    """A float32 loss of exactly the bound is allowed: its distance is 1e-8, as in their code."""
    first = torch.tensor(bound).flatten()[0]
    losses = torch.tensor([[0.0, 1.0], [-0.1, 1.0], [0.1, 1.0]])
    losses[:, 0] += first
    weights = FAMO(min_loss=bound).init(2, (3,))(losses).weights
    assert torch.equal(weights.isnan(), torch.tensor([[False] * 2, [True] * 2, [False] * 2]))
    distance = 1 - torch.tensor(bound).expand(2)[1].double()
    torch.testing.assert_close(weights[0, 1].double(), 1e-8 / (1e-8 + distance), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bounds", [(0.1,), (0.1, 0.2, 0.3)])
def test_as_many_bounds_as_tasks_are_needed(bounds: tuple[float, ...]) -> None:
    method = FAMO(min_loss=bounds)
    with refused("min_loss", list(bounds)):
        method.init(2)


def test_bounds_are_no_state_and_follow_the_method() -> None:
    method = FAMO(min_loss=[-1.0, 0.5]).init(2)
    assert method.state_dict().keys() == FAMO().init(2).state_dict().keys()
    assert method.min_loss == (-1.0, 0.5) == method.lowest_loss
    assert method(torch.tensor([-0.5, 1.0])).weights.tolist() == pytest.approx([0.5, 0.5])


def test_the_order_of_calls_is_kept() -> None:
    method, losses = FAMO().init(2), torch.ones(2)
    method.after_step(losses)  # after a step that was skipped there is nothing to learn
    assert not method.logits.any() and not method.adam.steps.any()
    method(losses)
    with pytest.raises(
        RuntimeError,
        match=r"^famo .*after_step\(losses\)",
    ):
        method(losses)
    method.after_step(losses)
    method(losses)
    method.reset()
    method(losses)
    method.init(2)
    method(losses)


def test_losses_after_the_step_have_the_shape_of_those_before() -> None:
    with pytest.raises(ValueError, match=r"^famo .*init\(tasks=2\)"):
        FAMO().after_step(torch.ones(2))
    method = FAMO().init(2)
    method(torch.ones(2))
    with pytest.raises(ValueError, match=r"of shape \(2,\) but got \(3, 2\)"):
        method.after_step(torch.ones(3, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": -1},
        {"gamma": -0.1},
        {"min_loss": float("inf")},
        {"min_loss": None},
        {"min_loss": "0"},
        {"min_loss": []},
        {"min_loss": True},
    ],
)
def test_other_options_are_refused(options: dict[str, object]) -> None:
    ((name, value),) = options.items()
    with refused(name, value):
        FAMO(**options)
