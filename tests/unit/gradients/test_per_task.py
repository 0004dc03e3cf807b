"""The Jacobian equals separate autograd calls; the direction and the own group do what they say."""

import pytest
import torch

from mtrl_fairgrad import LS, FairGrad, combine, contract, gramian, task_gradients

S, K, B, IN, HIDDEN = 3, 4, 6, 5, 7


def make_problem(seeds=S, dtype=torch.float64, generator_seed=0):
    g = torch.Generator().manual_seed(generator_seed)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=dtype)

    shared = {"weight": normal(seeds, HIDDEN, IN), "bias": normal(seeds, HIDDEN)}
    own = {"head": normal(seeds, K, HIDDEN)}
    context = {"offset": normal(seeds)}
    return shared, context, own, normal(seeds, K, B, IN), normal(seeds, K, B)


def call_on(problem, function, *arguments, **options):
    """Call `combine` or `task_gradients` with the problem's parameters, context and inputs."""
    shared, context, own, *inputs = problem
    return function(*arguments, shared, *inputs, own=own, context=context, **options)


def loss(shared, context, own, inputs, targets):
    hidden = torch.tanh(inputs @ shared["weight"].mT + shared["bias"])
    error = hidden @ own["head"] + context["offset"] - targets
    return error.square().mean(), error.mean()


def one_task(problem, s, k):
    """The loss of one task of one seed and its gradients by an ordinary autograd call."""
    shared, context, own, inputs, targets = problem
    leaves = {n: v[s].clone().requires_grad_() for n, v in shared.items()}
    head = {n: v[s, k].clone().requires_grad_() for n, v in own.items()}
    value, _ = loss(
        leaves, {n: v[s] for n, v in context.items()}, head, inputs[s, k], targets[s, k]
    )
    found = torch.autograd.grad(value, [*leaves.values(), *head.values()])
    return value.detach(), dict(zip([*leaves, *head], found, strict=True))


@pytest.mark.parametrize("seeds", [1, S])
def test_jacobian_equals_separate_autograd_calls(seeds):
    problem = make_problem(seeds)
    found = call_on(problem, task_gradients, loss)
    assert found.losses.shape == found.auxiliary.shape == (seeds, K)
    for s in range(seeds):
        for k in range(K):
            value, expected = one_task(problem, s, k)
            torch.testing.assert_close(found.losses[s, k], value, rtol=1e-10, atol=1e-10)
            for name in problem[0]:
                torch.testing.assert_close(
                    found.jacobian[name][s, k], expected[name], rtol=1e-10, atol=1e-10
                )
            torch.testing.assert_close(
                found.own["head"][s, k], expected["head"], rtol=1e-10, atol=1e-10
            )


def test_gramian_is_the_product_of_concatenated_rows():
    found = call_on(make_problem(), task_gradients, loss)
    rows = torch.cat([g.flatten(2) for g in found.jacobian.values()], dim=-1)
    torch.testing.assert_close(gramian(found.jacobian, batch_dims=1), rows @ rows.mT)


def test_contract_is_the_weighted_sum_of_rows():
    found = call_on(make_problem(), task_gradients, loss)
    weights = torch.rand(S, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for name, direction in contract(weights, found.jacobian).items():
        expected = sum(
            weights[:, k].view(S, *(1,) * (direction.ndim - 1)) * found.jacobian[name][:, k]
            for k in range(K)
        )
        torch.testing.assert_close(direction, expected)


def test_gramian_and_contract_accept_scalar_parameters():
    rows = {"scale": torch.tensor([1.0, -2.0, 3.0])}
    torch.testing.assert_close(gramian(rows), torch.outer(rows["scale"], rows["scale"]))
    torch.testing.assert_close(contract(torch.ones(3), rows)["scale"], torch.tensor(2.0))


def test_gramian_ignores_reduced_matmul_precision():
    rows = {"weight": torch.randn(8, 4000, generator=torch.Generator().manual_seed(0))}
    exact = gramian({"weight": rows["weight"].double()})
    torch.set_float32_matmul_precision("medium")
    try:
        found = gramian(rows)
        assert torch.get_float32_matmul_precision() == "medium"
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert torch.equal(gramian(rows), found)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-2)


def test_gramian_widens_half_precision():
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = gramian({"weight": rows})
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rows.float() @ rows.float().mT)


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)])
def test_a_surrounding_autocast_does_not_touch_the_products(method):
    def elementwise(shared, context, own, inputs):  # nothing here that autocast would round
        return (shared["weight"] * inputs - own["bias"]).square().mean(), ()

    generator = torch.Generator().manual_seed(0)
    shared, own = {"weight": torch.ones(S, IN)}, {"bias": torch.zeros(S, K, 1)}
    inputs = torch.randn(S, K, B, IN, generator=generator)
    expected = combine(method, elementwise, shared, inputs, own=own)
    with torch.autocast("cpu", torch.bfloat16):
        found = combine(method, elementwise, shared, inputs, own=own)
    assert torch.equal(found.direction["weight"], expected.direction["weight"])
    assert found.diagnostics.keys() == expected.diagnostics.keys()
    assert all(
        torch.equal(value, expected.diagnostics[key]) for key, value in found.diagnostics.items()
    )


def test_empty_jacobian_is_refused():
    with pytest.raises(ValueError, match="at least one shared parameter"):
        gramian({})


@pytest.mark.parametrize("seeds", [1, S])
def test_combine_with_ls_is_the_gradient_of_the_sum(seeds):
    problem = make_problem(seeds)
    found = call_on(problem, combine, LS(), loss)
    for s in range(seeds):
        rows = [one_task(problem, s, k)[1] for k in range(K)]
        for name, direction in found.direction.items():
            torch.testing.assert_close(direction[s], sum(row[name] for row in rows))


@pytest.mark.parametrize(
    "method", [LS("sum"), LS("mean"), FairGrad(alpha=2), FairGrad(alpha=1, solver="sgd")]
)
def test_own_parameters_receive_their_tasks_plain_gradient(method):
    problem = make_problem()
    found = call_on(problem, combine, method, loss)
    for s in range(S):
        for k in range(K):
            torch.testing.assert_close(found.own["head"][s, k], one_task(problem, s, k)[1]["head"])


def test_combine_with_fairgrad_solves_the_papers_equation():
    alpha = 2.0
    problem = make_problem()
    found = call_on(problem, combine, FairGrad(alpha=alpha), loss)
    weights, products = found.diagnostics["weights"], found.diagnostics["gramian"]
    torch.testing.assert_close(
        (products @ weights.unsqueeze(-1)).squeeze(-1),
        weights ** (-1 / alpha),
        rtol=1e-4,
        atol=1e-4,
    )
    rows = call_on(problem, task_gradients, loss).jacobian
    for name, direction in contract(weights, rows).items():
        torch.testing.assert_close(found.direction[name], direction)


def test_a_seed_among_others_gets_what_it_gets_alone():
    problem = make_problem()
    together = call_on(problem, combine, FairGrad(alpha=2), loss)
    for s in range(S):
        shared, context, own, *data = problem
        pick = [{n: v[s : s + 1] for n, v in group.items()} for group in (shared, context, own)]
        alone = call_on((*pick, *(d[s : s + 1] for d in data)), combine, FairGrad(alpha=2), loss)
        for name in shared:
            torch.testing.assert_close(
                alone.direction[name][0], together.direction[name][s], rtol=1e-9, atol=1e-12
            )


def test_no_graph_survives():
    for method in (LS(), FairGrad(alpha=2)):
        shared, context, own, *data = make_problem()
        shared = {name: torch.nn.Parameter(value) for name, value in shared.items()}
        found = combine(method, loss, shared, *data, own=own, context=context)
        tensors = [found.losses, found.auxiliary, *found.direction.values(), *found.own.values()]
        assert not any(t.requires_grad for t in (*tensors, *found.diagnostics.values()))


def test_what_is_no_method_is_refused():
    with pytest.raises(TypeError, match="FairGrad"):
        call_on(make_problem(), combine, torch.nn.Identity(), loss)
