"""Nothing in an update waits for the GPU but methods that compute on the host, and an evaluation
can run beside it.
"""

import threading
from contextlib import contextmanager

import pytest
import torch

from mtrl_fairgrad import FairGrad, make_method, method_names
from mtrl_fairgrad.agents import SeedPolicies
from tests.gpu.test_graphs import HOST
from tests.support.gpu_learner import (
    EAGER,
    GRAPH,
    STEPS,
    assert_same_state,
    feed,
    learner_on,
    method_words,
)
from tests.support.small_learner import OBSERVATION

WITHOUT_HOST = [name for name in method_names() if name not in HOST]


@contextmanager
def no_waiting(device):
    """Raise an error where the host waits for the device."""
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", WITHOUT_HOST)
def test_replays_do_not_wait(name, card):
    learner = feed(learner_on(card, GRAPH, *method_words(name)))
    with no_waiting(card):
        for number in range(STEPS, STEPS + 3):
            learner.learn(number)


@pytest.mark.parametrize("name", WITHOUT_HOST)
def test_eager_updates_do_not_wait(name, card):
    learner = feed(learner_on(card, EAGER, *method_words(name)), steps=20)
    with no_waiting(card):
        for number in range(20, 23):
            learner.learn(number)


def test_a_wait_is_noticed(card):
    with no_waiting(card), pytest.raises(RuntimeError):
        torch.ones(1, device=card).item()


@pytest.mark.parametrize("solver", ["newton", "sgd"])
def test_fairgrad_on_a_gramian_does_not_wait(solver, card):
    rows = torch.randn(4, 10, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gramian = rows @ rows.mT
    method, there = FairGrad(2, solver=solver), gramian.to(card)
    method(there)  # compiles the kernel
    with no_waiting(card):
        weights, diagnostics = method(there)
    assert diagnostics["active"].is_cuda
    torch.testing.assert_close(weights.cpu(), method(gramian).weights, rtol=1e-4, atol=0)


def test_methods_that_compute_on_the_host_give_results_on_the_device(device):
    rows = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    for name in ("mgda", "upgrad", "cagrad"):
        gramian = (rows @ rows.mT).to(device)
        assert make_method(name)(gramian).weights.device.type == device.type


def test_an_evaluation_beside_updates_changes_neither(device):
    alone = feed(learner_on(device, GRAPH))
    alone_later = feed(learner_on(device, GRAPH))
    beside = feed(learner_on(device, GRAPH))
    observations = torch.randn(1, 3, OBSERVATION, generator=torch.Generator().manual_seed(0))
    expected = alone.agent.act(observations.to(device)).cpu()
    policy, actions, stop = beside.agent.policy(), [], threading.Event()

    def evaluate():
        while not stop.is_set():
            modules = beside.agent.policy_modules(policy)
            actions.append(SeedPolicies(module.act for module in modules)(observations))

    thread = threading.Thread(target=evaluate)
    thread.start()
    try:
        feed(beside, steps=40, start=STEPS)
    finally:
        stop.set()
        thread.join()
    feed(alone_later, steps=40, start=STEPS)
    assert actions
    for each in actions:
        torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-5)
    assert_same_state(beside, alone_later)
