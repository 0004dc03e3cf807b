"""Both critics in one batched product a layer, as on a GPU, against one critic after the other."""

import pytest
import torch
from benchmarking.fake_cuda import DEVICE, fake_cuda

from mtrl_fairgrad import LS
from mtrl_fairgrad.agents import SAC, networks
from mtrl_fairgrad.agents.networks import Computation
from mtrl_fairgrad.agents.twin_products import product
from tests.support.sac_equations import ACTION, BATCH, OBSERVATION, TASKS, Problem, traced
from tests.unit.agents.conftest import DIMENSIONS, small_config

aten = torch.ops.aten
ARCHITECTURES = ("mtsac", "mtsac_te", "mhsac", "stl")
CRITICS = {
    "plain": {},
    "layer_norm": {"critic_layer_norm": True},
    "categorical": {"critic": "categorical", "atoms": 11, "network": "bronet", "target": "mean"},
    "categorical_min": {"critic": "categorical", "atoms": 11, "v_max": 2.0},
}
PRODUCTS = {aten.mm.default, aten.bmm.default}
COPIES = {
    aten.clone.default,
    aten.cat.default,
    aten.stack.default,
    aten.copy.default,
    aten.repeat.default,
    aten._to_copy.default,
}


def results(problem):
    """Return all results of the agent's equations, in one nesting."""
    return (
        problem.gradients("critic"),
        problem.gradients("actor"),
        problem.combined("critic")[:4],
        problem.combined("actor")[:4],
        problem.bellman_targets(),
    )


@pytest.mark.parametrize("critics", CRITICS.values(), ids=CRITICS)
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_losses_gradients_and_targets_equal_those_of_one_critic_after_the_other(
    name, seeds, critics
):
    expected = results(Problem(name, seeds, critic_width=20, **critics))
    at_once = results(Problem(name, seeds, at_once=True, critic_width=20, **critics))
    torch.testing.assert_close(at_once, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)], ids=str)
def test_observations_may_have_any_leading_axes(leading):
    critics = {name: value[0] for name, value in Problem().critics.shared.items()}
    inputs, actions = torch.randn(*leading, OBSERVATION), torch.randn(*leading, ACTION)
    arguments = critics, inputs.double(), actions.double()
    expected = networks.critic_outputs(*arguments).squeeze(-1)
    at_once = networks.critic_outputs(*arguments, Computation(at_once=True)).squeeze(-1)
    assert expected.shape == (2, *leading)
    torch.testing.assert_close(at_once, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "seeds", "layers"), [("mtsac", 1, 3), ("mhsac", 3, 5)])
def test_a_layer_of_both_critics_is_one_product_and_no_shared_weight_is_copied_for_each_task(
    name, seeds, layers
):
    width = 64  # so that weights copied for each task are larger than hidden units of all samples
    problem = Problem(name, seeds, at_once=True, width=width)
    all_weights = sum(value.numel() for group in problem.critics for value in group.values())
    hidden = 2 * seeds * TASKS * BATCH * width
    assert hidden < 2 * seeds * TASKS * width**2
    # Values, and gradients by weights and by inputs, except by those of the first layer.
    learned = 3 * layers - 1
    for function, expected in (
        (lambda: problem.gradients("critic"), learned),
        (lambda: problem.gradients("actor"), learned + 2 * layers),
        (problem.bellman_targets, 2 * layers),
    ):
        nodes = traced(problem, function)
        assert sum(node.target in PRODUCTS for node in nodes) == expected
        copied = {node.meta["val"].numel() for node in nodes if node.target in COPIES}
        assert max(copied - {all_weights}) <= hidden


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (2, None), (None, 1), (0, 0), (1, 2)])
def test_a_product_under_vmap_and_its_derivatives_equal_those_of_matmul(axes):
    generator = torch.Generator().manual_seed(0)

    def operand(axis, *shape):
        shape = list(shape)
        if axis is not None:
            shape.insert(axis, 3)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    left, right = operand(axes[0], 2, 4, 5), operand(axes[1], 2, 6, 5)

    def gradients(multiply):
        def scalar(left, right):
            return multiply(left, right).sin().sum()

        def curvature(left, right):
            return torch.func.grad(scalar)(left, right).cos().sum()

        both = (torch.func.grad(f, argnums=(0, 1)) for f in (scalar, curvature))
        return [torch.func.vmap(f, in_dims=axes)(left, right) for f in (multiply, *both)]

    torch.testing.assert_close(
        gradients(product), gradients(lambda left, right: left @ right.mT), rtol=1e-12, atol=1e-13
    )


def test_a_gpu_computes_critics_at_once_and_a_cpu_one_after_the_other():
    for device, at_once in ((DEVICE, True), (torch.device("cpu"), False)):
        with fake_cuda():
            agent = SAC(small_config(), *DIMENSIONS, (0,), TASKS, LS(), LS(), device)
        assert agent.losses.computation == Computation(None, at_once)
