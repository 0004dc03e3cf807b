"""`precision=bf16`: products between hidden layers in bfloat16, and nothing else."""

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad import LS
from mtrl_fairgrad.agents import SAC
from mtrl_fairgrad.agents.sac_losses import SACLosses
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.gradients.graph_capture import CALLS_BEFORE_CAPTURE
from mtrl_fairgrad.gradients.per_task import CapturedLoss, task_gradients
from tests.support.sac_equations import ACTION, OBSERVATION, Problem, traced
from tests.unit.agents.conftest import DIMENSIONS, TASKS, small_config

aten = torch.ops.aten
OF_HIDDEN_LAYERS = {
    aten.mm.default,
    aten.bmm.default,
    aten.add.Tensor,  # biases
    aten.mul.Scalar,  # biases by 1, a habit of torch.func.vmap
    aten.sum.dim_IntList,  # gradients by biases
    aten.relu.default,
    aten.threshold_backward.default,
    aten._to_copy.default,
    aten.clone.default,
}
"""Operations that may read or return bfloat16, beside views."""
VIEWS = {
    aten.t.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.expand.default,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dims,
    aten.squeeze.dim,
    aten.unsqueeze.default,
    aten.unbind.int,
}
SIZES = {"width": 64, "depth": 3}
RECIPE = {"network": "bronet", "critic": "categorical", "atoms": 11, "target": "mean"}


def problem(precision, **changes):
    return Problem(dtype=torch.float32, precision=precision, **{**SIZES, **changes})


def in_bf16(node):
    """Return whether an operation reads or returns a tensor of type bfloat16."""
    around = [node, *node.all_input_nodes]
    values = [each.meta.get("val") for each in around]
    return any(isinstance(each, Tensor) and each.dtype == torch.bfloat16 for each in values)


@pytest.mark.parametrize(
    ("name", "layers", "options", "at_once"),
    [
        ("mtsac", 2, {}, False),
        ("mhsac", 4, {"critic_layer_norm": True}, True),
        ("mtsac", 6, RECIPE, False),  # two layers in each block
        ("mhsac", 7, RECIPE, True),
    ],
)
def test_only_hidden_layers_compute_in_bfloat16(name, layers, options, at_once):
    problem_ = problem("bf16", name=name, at_once=at_once, **options)
    twins = 1 if at_once else 2
    for function, products in (
        (lambda: problem_.gradients("critic"), 3 * layers * twins),
        (lambda: problem_.gradients("actor"), 3 * layers + 2 * layers * twins),
        (problem_.bellman_targets, layers + layers * twins),
    ):
        nodes = traced(problem_, function)
        low = [node for node in nodes if in_bf16(node)]
        assert {node.target for node in low} <= OF_HIDDEN_LAYERS | VIEWS
        assert sum(node.target in (aten.mm.default, aten.bmm.default) for node in low) == products


def flat_rows(gradients):
    assert all(rows.dtype == torch.float32 for rows in gradients.jacobian.values())
    return torch.cat([rows.flatten(2) for rows in gradients.jacobian.values()], -1)


@pytest.mark.parametrize("at_once", [False, True], ids=["one_by_one", "at_once"])
@pytest.mark.parametrize("network", ["critic", "actor"])
@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize(
    ("options", "largest"), [({}, 2e-2), (RECIPE, 8e-2)], ids=["default", "recipe"]
)
def test_task_gradients_are_close_to_those_in_float32(network, seeds, at_once, options, largest):
    exact, rounded = (
        problem(each, seeds=seeds, at_once=at_once, **options).gradients(network)
        for each in ("fp32", "bf16")
    )
    torch.testing.assert_close(rounded.losses, exact.losses, rtol=1e-2, atol=1e-3)
    exact, rounded = flat_rows(exact), flat_rows(rounded)
    error = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert error.max() < largest and error.min() > 1e-5
    assert torch.cosine_similarity(rounded, exact, dim=-1).min() > 1 - largest**2


def test_targets_are_close_to_those_in_float32():
    exact, rounded = (problem(each).bellman_targets() for each in ("fp32", "bf16"))
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=1e-2)


def test_other_precisions_change_nothing_here():
    default = SACLosses.from_config(AgentConfig())
    assert default.computation.dtype is None
    assert all(SACLosses.from_config(AgentConfig(), each) == default for each in ("fp32", "tf32"))


def test_the_agents_precision_is_that_of_its_losses():
    agents = [
        SAC(small_config(), *DIMENSIONS, (0,), TASKS, LS(), LS(), precision=each)
        for each in ("fp32", "bf16")
    ]
    assert [each.losses.computation.dtype for each in agents] == [None, torch.bfloat16]
    assert agents[0].critic_loss is not agents[1].critic_loss


def of_first_seed(network):
    return {name: value[0] for name, value in network.shared.items()}


def test_acting_is_the_same_in_every_precision():
    problems = [problem(each) for each in ("fp32", "bf16")]
    observations, noise = torch.randn(5, OBSERVATION), torch.randn(5, ACTION)
    for numbers in ((), (noise,)):
        first, second = (
            each.losses.action(
                (of_first_seed(each.actor), of_first_seed(each.critics)),
                ({}, {}),
                observations,
                *numbers,
            )
            for each in problems
        )
        assert torch.equal(first, second)


def repeated(loss, calls):
    """Return the critics' task gradients of several calls with the same data."""
    problem_ = problem("bf16", seeds=2)
    context, data, learned = problem_.critic_arguments()
    for _ in range(calls):
        yield task_gradients(loss, learned.shared, *data, own=learned.own, context=context)


def test_a_captured_graph_replays_the_same_bits():
    loss = CapturedLoss(problem("bf16").losses.critic_loss)
    first, *_, last = repeated(loss, CALLS_BEFORE_CAPTURE + 2)
    assert all(torch.equal(last.jacobian[name], rows) for name, rows in first.jacobian.items())


@pytest.mark.exhaustive  # compiles
def test_a_compiled_graph_returns_the_same_gradients():
    plain = problem("bf16", at_once=True).losses.critic_loss
    (expected,), (compiled,) = (repeated(f, 1) for f in (plain, CapturedLoss(plain, compile=True)))
    rows, reference = flat_rows(compiled), flat_rows(expected)
    assert ((rows - reference).norm(dim=-1) / reference.norm(dim=-1)).max() < 2e-2
