"""On a GPU methods, kernels and options give the numbers of the CPU, as far as they promise to."""

import pytest
import torch

from mtrl_fairgrad import backward, jacobian_like, make_method, method_names
from mtrl_fairgrad.training.execution import configure_torch, has_gpu_compiler
from mtrl_fairgrad.weighting.solvers import newton
from tests.support.gpu_learner import EAGER, GRAPH, assert_same_state, feed, learner_on
from tests.support.multi_head_model import Heads, K, assert_same
from tests.support.small_learner import SMALL, configuration, flat
from tests.unit.weighting import samplers

METHODS = [name for name in method_names() if name != "stl"]
STRATA = (
    samplers.ordinary,
    samplers.heterogeneous,
    samplers.aligned,
    samplers.conflicting,
    samplers.conditioned,
    samplers.conflicting_heterogeneous,
)


def gramians(sampler, tasks, count=6):
    rows = [sampler(tasks, torch.Generator().manual_seed(seed)) for seed in range(count)]
    return torch.stack([each @ each.mT for each in rows])


def assert_same_solution(found, expected, rtol):
    assert torch.equal(found.converged.cpu(), expected.converged)
    torch.testing.assert_close(found.weights.cpu(), expected.weights, rtol=rtol, atol=0)


# ---- the kernels ----


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("sampler", STRATA, ids=lambda each: each.__name__)
def test_the_newton_kernel_agrees_with_the_host(sampler, alpha, card):
    problems = gramians(sampler, 10)
    found, expected = newton(problems.to(card), alpha, form="kernel"), newton(problems, alpha)
    # Rounding of the Gramian alone changes the smallest weights by up to 1e-8 (α = 0.1).
    assert_same_solution(found, expected, 1e-6)


@pytest.mark.parametrize("tasks", [2, 3, 16, 17, 50, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_newton_kernel_takes_up_to_64_tasks_of_both_types(tasks, dtype, card):
    problems = gramians(samplers.ordinary, tasks).to(dtype)
    found, expected = newton(problems.to(card), 2.0, form="kernel"), newton(problems, 2.0)
    assert_same_solution(found, expected, 1e-5 if dtype == torch.float32 else 1e-7)


def test_more_tasks_than_the_kernel_takes_are_solved_on_the_host(device):
    problems = gramians(samplers.ordinary, 70, 1)
    assert_same_solution(newton(problems.to(device), 2.0), newton(problems, 2.0), 1e-7)


def test_the_newton_kernel_leaves_out_masked_tasks_and_bad_problems(card):
    problems, active = gramians(samplers.ordinary, 6), torch.ones(6, 6, dtype=torch.bool)
    active[1, 2] = active[2] = False
    problems[3, 0, 0], problems[4] = torch.nan, torch.inf
    expected = newton(problems, 2.0, active)
    found = newton(problems.to(card), 2.0, active.to(card), form="kernel")
    assert torch.equal(found.converged.cpu(), expected.converged)
    torch.testing.assert_close(
        found.weights.cpu(), expected.weights, rtol=1e-7, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_the_sgd_kernel_agrees_with_the_host(alpha, card):
    problems = gramians(samplers.ordinary, 10)
    expected = make_method("fairgrad", alpha=alpha, solver="sgd")(problems)
    found = make_method("fairgrad", alpha=alpha, solver="sgd")(problems.to(card))
    torch.testing.assert_close(found.weights.cpu(), expected.weights, rtol=1e-3, atol=1e-6)


# ---- methods ----


def encoder_gradients(name, device):
    """All gradients after each of two calls of `backward`, on the CPU."""
    model, method = Heads().to(device), make_method(name)
    model.inputs, model.targets = model.inputs.to(device), model.targets.to(device)
    method.init(K, (), jacobian_like(model.groups["shared"], K)).to(device)
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(2):
        noise = method.draw([generator])
        backward(
            model.losses(),
            method,
            **model.groups,
            noise=None if noise is None else noise.to(device),
        )
        found += [each.cpu() for each in model.grads()]
        if method.looks_after_step:
            method.after_step(torch.stack(model.losses()).detach())
        model.zero_grad()
    return found


@pytest.mark.parametrize("name", METHODS)
def test_backward_on_a_shared_encoder_gives_the_gradients_of_the_cpu(name, device):
    # The published sgd loop computes in float32, like its kernel.
    expected = encoder_gradients(name, torch.device("cpu"))
    assert_same(encoder_gradients(name, device), expected, rtol=1e-5, atol=1e-7)


# ---- options ----


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_lower_precision_stays_near_fp32(precision, device):
    infos = {}
    for each in ("fp32", precision):
        config = configuration(*SMALL, f"precision={each}", "compile=false")
        configure_torch(config, device)
        try:
            learner = feed(learner_on(device, EAGER, f"precision={each}"), steps=12)
            infos[each] = learner.report()
        finally:
            configure_torch(configuration(*SMALL), device)
    for name, value in infos["fp32"].items():
        if name in ("critic/loss", "actor/loss", "critic/value", "entropy"):
            torch.testing.assert_close(infos[precision][name], value, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["ls", "fairgrad", "pcgrad"])
@pytest.mark.parametrize("graph", [EAGER, GRAPH])
def test_compiled_updates_are_near_plain_ones(name, graph, card):
    if not has_gpu_compiler():
        pytest.skip("needs Triton and a C compiler")
    words = [graph, f"method={name}"]
    plain, compiled = (
        feed(learner_on(card, *words, f"compile={each}"), steps=25) for each in ("false", "true")
    )
    assert_same_state(compiled, plain)


def test_a_learner_on_a_gpu_holds_everything_there(device):
    learner = feed(learner_on(device, GRAPH), steps=8)
    tensors = {name: value for name, value in flat(learner).items() if "generators" not in name}
    assert {each.device.type for each in tensors.values()} == {device.type}
