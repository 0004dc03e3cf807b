"""`combine` for a method that takes the gradients of half-batches."""

import pytest
import torch

from mtrl_fairgrad import Accumulator, FairGrad, GramianWeighting, Weights, backward, combine
from mtrl_fairgrad.gradients.per_task import CapturedLoss, task_gradients
from mtrl_fairgrad.weighting.half_batches import rows_of_halves
from mtrl_fairgrad.weighting.products import gramian
from tests.support.errors import refused
from tests.unit.gradients.test_per_task import B, K, S, call_on, loss, make_problem


class Weighing(GramianWeighting):
    """Weights of its own for each task; keeps what it sees."""

    name = "weighing"
    splits_batch = True

    def forward(self, gramian):
        self.seen = gramian
        return Weights(torch.arange(1.0, K + 1).double().expand(len(gramian), K), {})


def halves_of(problem):
    shared, context, own, *data = problem
    inputs, targets = (each.split(B // 2, 2) for each in data)
    return [(shared, context, own, *part) for part in zip(inputs, targets, strict=True)]


@pytest.mark.parametrize("seeds", [1, S])
@pytest.mark.parametrize("captured", [False, True])
def test_the_method_sees_the_halves_and_the_direction_is_the_whole_batchs(seeds, captured):
    problem, method = make_problem(seeds), Weighing()
    whole = call_on(problem, task_gradients, loss)
    parts = [call_on(half, task_gradients, loss).jacobian for half in halves_of(problem)]
    task_loss = CapturedLoss(loss) if captured else loss
    for _ in range(10 if captured else 1):
        found = call_on(problem, combine, method, task_loss)
    rows = {n: torch.stack([part[n] for part in parts], 2).flatten(1, 2) for n in problem[0]}
    torch.testing.assert_close(method.seen, gramian(rows, 1))
    torch.testing.assert_close(found.losses, whole.losses)
    torch.testing.assert_close(found.auxiliary, whole.auxiliary)
    torch.testing.assert_close(found.own, whole.own)
    torch.testing.assert_close(found.diagnostics["gramian"], gramian(whole.jacobian, 1))
    assert found.diagnostics["weights"].shape == (seeds, K)
    for name, value in whole.jacobian.items():
        expected = sum((k + 1) * value[:, k] for k in range(K))
        torch.testing.assert_close(found.direction[name], expected)


def test_what_belongs_to_a_task_goes_to_both_halves():
    problem = make_problem()
    shared, context, own, inputs, targets = problem
    temperature = torch.rand(S, K, dtype=torch.float64)

    def other_order(shared, context, own, heads, inputs, targets, temperature):
        value, error = loss(shared, context, heads, inputs, targets)
        return temperature * value, error

    found = combine(
        Weighing(), other_order, shared, own, inputs, targets, temperature, context=context
    )
    value, _, _, error = call_on(problem, task_gradients, loss)
    torch.testing.assert_close(found.losses, temperature * value)
    torch.testing.assert_close(found.auxiliary, error)


def test_equal_halves_give_the_result_of_the_plain_gramian():
    shared, context, own, *data = make_problem()
    data = [torch.cat([each, each], 2) for each in data]
    problem = (shared, context, own, *data)
    found = call_on(problem, combine, FairGrad(2, gramian="half_batches"), loss)
    expected = call_on(problem, combine, FairGrad(2), loss)
    torch.testing.assert_close(found.direction, expected.direction)
    torch.testing.assert_close(found.own, expected.own)


def test_weighted_conventions_and_the_fallback_reach_halves():
    problem = make_problem()
    whole = call_on(problem, task_gradients, loss)
    method = FairGrad(2, gramian="half_batches")
    found = call_on(problem, combine, method, loss, convention="libmtl")
    weights = found.diagnostics["weights"]
    torch.testing.assert_close(found.own["head"], weights[..., None] * whole.own["head"])


def test_a_batch_without_halves_is_refused():
    shared, context, own, *data = make_problem()
    odd = (shared, context, own, *(each[:, :, :5] for each in data))
    call_on(odd, combine, FairGrad(2), loss)
    with pytest.raises(ValueError, match="5 samples"):
        call_on(odd, combine, FairGrad(2, gramian="half_batches"), loss)


def test_losses_of_one_graph_are_refused():
    parameter = torch.tensor([1.0, -2.0], requires_grad=True)
    method = FairGrad(2, gramian="half_batches")
    with refused("gramian", "half_batches"):
        backward([parameter[0], parameter[1]], method, shared=[parameter])
    accumulator = Accumulator(shared=[parameter])
    accumulator.add([parameter[0], parameter[1]])
    with refused("gramian", "half_batches"):
        accumulator.backward(method)
    assert parameter.grad is None and method.tasks is None


def test_the_other_options_serve_losses_of_one_graph():
    options = {"gramian_decay": 0.5, "solve_every": 2, "weight_ratio": 2.0, "length": "ls"}
    method = FairGrad(2, **options)
    for _ in range(3):
        parameter = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
        losses = [parameter[0] ** 2, (parameter[:2] ** 2).sum(), parameter[2] * 1e-3]
        found = backward(losses, method, shared=[parameter])
        length = rows_of_halves(found["gramian"]).mean().sqrt()
        torch.testing.assert_close(parameter.grad.norm(), length)
