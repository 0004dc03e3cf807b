"""The agent's equations for small networks and random data, and the operations they make."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

from mtrl_fairgrad import LS, combine
from mtrl_fairgrad.agents import networks
from mtrl_fairgrad.agents.networks import Parameters
from mtrl_fairgrad.agents.sac_losses import SACLosses
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.gradients.per_task import lift, task_gradients

TASKS, BATCH, OBSERVATION, ACTION = 3, 16, 6, 2


class Problem:
    """Networks of S seeds and random data for the agent's equations; tensors float64."""

    def __init__(
        self,
        name="mtsac",
        seeds=1,
        dtype=torch.float64,
        precision="fp32",
        at_once=False,
        **changes,
    ):
        config = AgentConfig(name, **{"width": 24, "depth": 2, **changes})
        self.tasks = 1 if name == "stl" else TASKS
        self.seeds, self.dtype = seeds, dtype
        self.losses = SACLosses.from_config(config, precision, on_gpu=at_once)
        self.generator = torch.Generator().manual_seed(4)
        self.actor = self.parameters(networks.init_actor, config)
        self.critics = self.parameters(networks.init_critics, config)
        self.targets = self.parameters(networks.init_critics, config)

    def parameters(self, init, config) -> Parameters:
        made = [
            init(config, OBSERVATION, ACTION, self.tasks, self.generator) for _ in range(self.seeds)
        ]
        return networks.stack_seeds(made, torch.device("cpu"), self.dtype)

    def normal(self, *shape):
        shape = self.seeds, self.tasks, *shape
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def critic_arguments(self):
        data = self.normal(BATCH, OBSERVATION), self.normal(BATCH, ACTION)
        outputs = self.losses.critic.outputs
        targets = self.normal(BATCH) if outputs == 1 else self.normal(BATCH, outputs).softmax(-1)
        return {}, (*data, targets), self.critics

    def actor_arguments(self):
        data = self.normal(BATCH, OBSERVATION), self.normal(BATCH, ACTION), self.normal().abs()
        return self.critics.shared, (self.critics.own, *data), self.actor

    def gradients(self, network):
        """Return losses, auxiliary results, rows of the Jacobian and own gradients."""
        loss = getattr(self.losses, f"{network}_loss")
        context, data, learned = getattr(self, f"{network}_arguments")()
        return task_gradients(loss, learned.shared, *data, own=learned.own, context=context)

    def combined(self, network):
        """Return the same without a Jacobian, by ordinary autograd."""
        loss = getattr(self.losses, f"{network}_loss")
        context, data, learned = getattr(self, f"{network}_arguments")()
        return combine(LS(), loss, learned.shared, *data, own=learned.own, context=context)

    def bellman_targets(self):
        networks_ = self.actor, self.critics, self.targets
        return lift(self.losses.bellman_targets, per_seed=1)(
            tuple(network.shared for network in networks_),
            tuple(network.own for network in networks_),
            self.normal(BATCH, OBSERVATION),
            self.normal(BATCH, ACTION),
            self.normal().abs(),
            self.normal(BATCH),
            (self.normal(BATCH) > 1).to(self.dtype),
        )


def traced(problem, function):
    """Return the operations of a function of the problem's parameters."""
    groups = problem.actor, problem.critics, problem.targets

    def of(*leaves):
        values = iter(leaves)
        problem.actor, problem.critics, problem.targets = (
            Parameters(*({name: next(values) for name in group} for group in groups_of))
            for groups_of in groups
        )
        return tree_flatten(function())[0]

    graph = make_fx(of, tracing_mode="fake")(*tree_flatten(groups)[0]).graph
    graph.eliminate_dead_code()
    return [node for node in graph.nodes if node.op == "call_function"]
