"""Captured functions return equal bits, for every agent and however often they are
called.
"""

import functools

import pytest
import torch
from torch.utils._pytree import tree_leaves

from mtrl_fairgrad import LS, FairGrad, combine
from mtrl_fairgrad.agents import SAC, Batch, Noise
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.gradients import graph_capture
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction, aten
from mtrl_fairgrad.gradients.per_task import CapturedLoss, lift, task_gradients, task_losses
from mtrl_fairgrad.utils.faults import FallbackWarning
from tests.unit.gradients.test_per_task import call_on


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(tree_leaves(one), tree_leaves(other), strict=True))


def captured_nodes(captured):
    """The operations of its only recording."""
    ((forward, _),) = captured._captures.values()
    return forward.__self__.graph.nodes


def problems(architecture, seeds, tasks=3, batch=5):
    """Both captured losses of an agent, with their arguments in order."""
    sizes, methods = (7, 2, list(range(seeds)), tasks), (FairGrad(alpha=1.0), FairGrad(alpha=1.0))
    agent = SAC(AgentConfig(architecture, width=8), *sizes, *methods)
    generator = torch.Generator().manual_seed(1)

    def normal(*last):
        return torch.randn(seeds, tasks, batch, *last, generator=generator)

    observations = [normal(agent.observation_dim) for _ in range(2)]
    actions, ended = normal(agent.action_dim).tanh(), torch.zeros(seeds, tasks, batch)
    data = Batch(observations[0], actions, normal(), observations[1], ended)
    noise = Noise(normal(agent.action_dim), normal(agent.action_dim))
    temperature = agent.log_temperature.exp()
    targets = agent.bellman_targets(data, noise, temperature)
    actor, critics = agent.actor, agent.critics
    of_critics = critics.shared, {}, critics.own, data.observations, data.actions, targets
    of_actor = actor.shared, critics.shared, actor.own, critics.own
    of_actor = *of_actor, data.observations, noise.actions, temperature
    return [(agent.critic_loss, *of_critics), (agent.actor_loss, *of_actor)]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("architecture", ["mtsac", "mtsac_te", "mhsac"])
def test_task_gradients_are_bit_for_bit_those_of_torch_func(architecture, seeds):
    for loss, *arguments in problems(architecture, seeds):
        plain = call_on(arguments, task_gradients, loss.loss)
        captured = CapturedLoss(loss.loss)
        captured.gradients.after = 0
        before = [each.clone() for each in tree_leaves(arguments)]
        for _ in range(2):
            assert equal(call_on(arguments, task_gradients, captured), plain)
        assert equal(before, tree_leaves(arguments))
        assert len(captured.gradients._captures) == 1


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("architecture", ["mtsac", "mtsac_te", "mhsac"])
def test_weighted_losses_are_differentiated_bit_for_bit_as_without_a_capture(architecture, seeds):
    for loss, *arguments in problems(architecture, seeds):
        captured = CapturedLoss(loss.loss)
        captured.values.after = 0
        plain, first, second = (
            call_on(arguments, functools.partial(combine, LS()), each)
            for each in (loss.loss, captured, captured)
        )
        assert equal(first, plain) and equal(second, plain)
        assert any(gradient.abs().max() > 0 for gradient in plain.direction.values())
        with torch.no_grad():
            assert equal(call_on(arguments, task_losses, captured), plain.losses)
        assert len(captured.values._captures) == 2, "with and without autograd"
        assert not captured.gradients._calls


def test_an_update_is_recorded_once_for_all_agents_of_its_shapes():
    def loss(shared, context, own, x):
        return (shared["w"] * x).square().mean(), x.sum()

    captured = CapturedLoss(loss)
    for seeds in (1, 1, 2):
        arguments = {"w": torch.randn(seeds, 4)}, {}, {}, torch.randn(seeds, 3, 4)
        for _ in range(captured.gradients.after + 1):
            assert equal(
                call_on(arguments, task_gradients, captured),
                call_on(arguments, task_gradients, loss),
            )
    assert len(captured.gradients._captures) == 2


def test_memory_that_is_read_again_is_not_overwritten():
    """The sum, the product and the matrix product of this chain all have another reader, or are an
    argument.
    """

    def function(x, y):
        product = x @ y
        summed = product + 1
        positive = summed.relu()
        return product, positive * summed, x + y, (x @ y).relu() + summed

    captured = CapturedFunction(lift(function, per_seed=1), after=0)
    arguments = torch.randn(1, 4, 4), torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        for _ in range(2):
            assert equal(captured(*arguments), captured.function(*arguments))


def test_the_memory_of_large_products_lasts_but_is_not_taken_from_who_holds_it(monkeypatch):
    monkeypatch.setattr(graph_capture, "MIN_REUSED_BYTES", 8 * 8 * 4)

    def function(x):
        return (x @ x).relu(), x[:4] @ x, (x @ x.mT).unflatten(0, (2, 4))

    captured = CapturedFunction(function, after=0)
    inputs = [torch.randn(8, 8) for _ in range(3)]
    with torch.no_grad():
        first, held = captured(inputs[0]), captured(inputs[1])
        assert equal(first, function(inputs[0])) and equal(held, function(inputs[1]))
        part = held[2][1]  # a view is enough
        places = [each.data_ptr() for each in held[:2]]
        del first, held
        again = captured(inputs[2])
        assert equal(again, function(inputs[2])) and equal(part, function(inputs[1])[2][1])
        assert again[0].data_ptr() == places[0], "written over what nobody holds"
    assert [node.op for node in captured_nodes(captured)].count("call_module") == 2, (
        "one is too small for it"
    )


def test_spare_memory_is_overwritten():
    captured = CapturedFunction(lambda x: ((x @ x + x).relu() * 2.0).relu(), after=0)
    x = torch.randn(4, 4)
    with torch.no_grad():
        assert torch.equal(captured(x), captured.function(x))
    targets = [node.target for node in captured_nodes(captured)]
    assert aten.add_.Tensor in targets
    assert targets.count(aten.relu_.default) == 2


def test_where_autograd_records_nothing_else_does():
    captured = CapturedFunction(lambda x: (x @ x).relu(), after=0)
    x = torch.randn(3, 3, requires_grad=True)
    captured(x).sum().backward()
    assert x.grad is not None
    assert not captured._captures


def test_backward_passes_are_recorded_in_the_thread_that_records():
    parallel = []

    def function(x):
        parallel.append(torch._C._is_multithreading_enabled())
        return x + 1

    captured = CapturedFunction(function, after=1)
    with torch.no_grad():
        for _ in range(3):
            captured(torch.zeros(2))
    assert parallel == [True, False]


def test_a_factor_stays_with_its_operand():
    captured = CapturedFunction(
        lambda x: (torch.add(x, x @ x, alpha=3), torch.add(x @ x, x, alpha=3)), after=0
    )
    x = torch.randn(4, 4)
    with torch.no_grad():
        assert equal(captured(x), captured.function(x))


def test_what_is_compiled_is_so_from_the_first_call():
    """Otherwise a resumed run would compute its first updates in another way."""
    assert CapturedFunction(torch.relu, compile=True).after == 0
    assert CapturedFunction(torch.relu).after > 0


def test_a_compiler_that_fails_is_tried_once_or_is_an_error(monkeypatch):
    tried = []

    def compile(module, **options):
        tried.append(options)

        def call(*leaves):
            raise OSError("Python.h is missing.\nand more")

        return call

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(CapturedFunction, "uncompiled", False)
    value = torch.tensor([-1.0, 2.0])
    with torch.no_grad():
        with pytest.warns(FallbackWarning, match=r"OSError: Python.h is missing;") as caught:
            assert torch.equal(CapturedFunction(torch.relu, compile="auto")(value), value.relu())
        other = CapturedFunction(torch.abs, compile="auto")
        assert torch.equal(other(value), value.abs()) and len(caught) == len(tried) == 1
        assert tried[0]["options"] == {"triton.cudagraphs": False}
        with pytest.raises(OSError, match="missing"):
            CapturedFunction(torch.relu, compile=True)(value)
