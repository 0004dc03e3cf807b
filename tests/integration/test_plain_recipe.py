"""The recipe of the presets against an independent version in modules, autograd and lists."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad import LS, FairGrad
from mtrl_fairgrad.agents import SAC, Noise, ReplayBuffer, ReturnNormalizer, Transition
from mtrl_fairgrad.config.agent import AgentConfig
from tests.support.plain_recipe import BroNet, PlainReplay, PlainSAC, fairgrad, mean

SEED, COPIES, TASKS, OBSERVATION, ACTION, BATCH, UPDATES = 3, 2, 3, 6, 2, 8, 25
RECIPE = {
    "network": "bronet",
    "depth": 1,
    "width": 12,
    "critic_width": 16,
    "critic": "categorical",
    "atoms": 11,
    "v_max": 10.0,
    "target": "mean",
    "n_step": 3,
    "discount": 0.9,
    "actor_every": 2,
    "optimizer": "adamw",
    "beta1": 0.9,
    "beta2": 0.95,
    "weight_decay": 1e-2,
    "learning_rate": 3e-3,
    "learning_rate_end": 3e-4,
    "temperature_learning_rate": 2e-3,
    "log_std": "tanh",
    "log_std_min": -5.0,
    "log_std_max": 0.0,
    "return_normalization": "per_task",
    "initial_temperature": 0.01,
    "target_entropy": -1.0,
    "polyak": 0.01,
    "adam_epsilon": 1e-8,
    "max_gradient_norm": 1.0,
    "twin_loss": "mean",
    "batch_size": BATCH,
}


def transitions(number):
    """Yield the fields of `Transition` for steps of both copies, float64."""
    draw = np.random.default_rng(SEED)
    lengths = np.zeros((COPIES, TASKS), int)
    for _ in range(number):
        shape = COPIES, TASKS
        lengths += 1
        terminated = draw.random(shape) < 0.05
        ended = terminated | (lengths >= 7)
        lengths[ended] = 0
        yield (
            draw.standard_normal((*shape, OBSERVATION)),
            np.tanh(draw.standard_normal((*shape, ACTION))),
            draw.exponential(size=shape) * np.array([0.01, 1.0, 30.0]),
            draw.standard_normal((*shape, OBSERVATION)),
            terminated.astype(float),
            ended.astype(float),
        )


def filled(number):
    """Return ring, normalizer and lists with the same steps."""
    gamma = RECIPE["discount"]
    ring = ReplayBuffer(
        COPIES * number, 1, TASKS, OBSERVATION, ACTION,
        dtype=torch.float64, copies=COPIES, n_step=RECIPE["n_step"], discount=gamma,
    )  # fmt: skip
    normalizer = ReturnNormalizer(
        1, COPIES, TASKS, gamma, RECIPE["v_max"], RECIPE["target_entropy"]
    )
    lists = PlainReplay(COPIES, TASKS, gamma, RECIPE["n_step"])
    begins = torch.ones(1, COPIES, TASKS, dtype=torch.bool)
    for fields in transitions(number):
        step = Transition(*(torch.from_numpy(field).unsqueeze(0) for field in fields))
        normalizer.update(step.rewards, begins, slice(0, COPIES))
        ring.add(step, begins)
        begins = step.ended > 0
        names = "observation", "action", "reward", "next_observation", "terminated", "ended"
        for e in range(COPIES):
            for k in range(TASKS):
                values = (field[e, k] for field in fields)
                lists.add(e, k, dict(zip(names, values, strict=True)))
    return ring, normalizer, lists


def plain_batch(lists, task, places, temperature):
    """Return a task's batch, whose rewards are divided by the scale of its returns."""
    found = [lists.lanes[place % COPIES, task][place // COPIES] for place in places]
    bonus = temperature * abs(RECIPE["target_entropy"]) / (1 - RECIPE["discount"])
    bonus = min(bonus, RECIPE["v_max"] / 2)
    scale = lists.scale(task, RECIPE["v_max"], bonus)
    sums = [lists.n_step_transition(p % COPIES, task, p // COPIES) for p in places]
    rewards, discounts, following = zip(*sums, strict=True)
    batch = {
        "observations": [each["observation"] for each in found],
        "actions": [each["action"] for each in found],
        "rewards": np.array(rewards) / scale,
        "discounts": discounts,
        "next_observations": following,
    }
    return {name: torch.from_numpy(np.array(values)) for name, values in batch.items()}


def bronet(parameters, prefix=""):
    """Return a module with one seed's parameters of the agent."""
    found = {
        name.removeprefix(prefix): value[0]
        for name, value in parameters.items()
        if name.startswith(prefix)
    }
    width, inputs = found["weight0"].shape
    module = BroNet(inputs, width, RECIPE["depth"], len(found["weight1"])).double()
    for (linear, norm), place in zip(module.layers(), places(), strict=True):
        linear.weight.data.copy_(found[place.format("weight")])
        linear.bias.data.copy_(found[place.format("bias")])
        if norm is not None:
            norm.weight.data.copy_(found[place.format("scale")])
            norm.bias.data.copy_(found[place.format("shift")])
    return module


def places():
    """Return patterns of the agent's names of layers, in the order of `BroNet.layers`."""
    blocks = [f"block{b}.{{}}{i}" for b in range(RECIPE["depth"]) for i in (0, 1)]
    return ["{}0", *blocks, "{}1"]


def differences(module, parameters, prefix=""):
    """Yield the largest difference of each parameter."""
    for (linear, norm), place in zip(module.layers(), places(), strict=True):
        pairs = {"weight": linear.weight, "bias": linear.bias}
        if norm is not None:
            pairs |= {"scale": norm.weight, "shift": norm.bias}
        for name, value in pairs.items():
            theirs = parameters[prefix + place.format(name)][0]
            yield (value.detach() - theirs).abs().max().item()


@pytest.mark.parametrize(
    ("method", "plain"),
    [
        (lambda: LS(reduction="mean"), mean),
        (lambda: FairGrad(alpha=1.0), fairgrad(1.0)),
        (lambda: FairGrad(alpha=2.0), fairgrad(2.0)),
    ],
    ids=["ls", "fairgrad_1", "fairgrad_2"],
)
def test_the_recipe_agrees_with_plain_pytorch_after_25_updates(method, plain):
    ring, normalizer, lists = filled(40)
    agent = SAC(
        AgentConfig(**RECIPE), OBSERVATION, ACTION, [SEED], TASKS, method(), method(),
        dtype=torch.float64, updates=UPDATES,
    )  # fmt: skip
    critics = [bronet(agent.critics.shared, f"{twin}.") for twin in ("first", "second")]
    actor = bronet(agent.actor.shared)
    theirs = PlainSAC(
        actor, critics, TASKS, RECIPE["initial_temperature"], plain,
        **{**RECIPE, "total_updates": UPDATES},
    )  # fmt: skip
    draw = torch.Generator().manual_seed(11)
    for number in range(1, UPDATES + 1):
        indices = torch.randint(ring.size, (1, TASKS, BATCH), generator=draw)
        shape = 1, TASKS, BATCH, ACTION
        noise = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2)]
        temperature = agent.log_temperature.exp()
        batch = ring.sample(indices)
        batch = batch._replace(rewards=normalizer.normalize(batch.rewards, temperature))
        with_actor = number % RECIPE["actor_every"] == 0
        agent.update(batch, Noise(noise[0], noise[1] if with_actor else None))
        theirs.update(
            [
                plain_batch(lists, k, indices[0, k].tolist(), value.item())
                for k, value in enumerate(theirs.log_temperature.detach().exp())
            ],
            noise[0][0],
            noise[1][0],
        )
    found = [*differences(actor, agent.actor.shared)]
    for twin, critic, target in zip(("first", "second"), critics, theirs.targets, strict=True):
        found += differences(critic, agent.critics.shared, f"{twin}.")
        found += differences(target, agent.target_critics, f"{twin}.")
    temperatures = theirs.log_temperature.detach() - agent.log_temperature[0]
    assert max(*found, temperatures.abs().max().item()) < 1e-8
