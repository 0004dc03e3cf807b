"""Updates of the reference implementations, written with plain autograd and plain optimisers.

* MTRL, the FairGrad paper's code: a task's critic loss is mse(Q1) + mse(Q2); the loss of the
  temperature is temperature · (entropy − target).
* Meta-World+, MTMHSAC: one loss, the mean over tasks; its gradient is clipped, heads included.
"""

import math

import pytest
import torch

from mtrl_fairgrad import make_method
from mtrl_fairgrad.agents import SAC, SeedStreams, SingleTaskSAC, networks
from mtrl_fairgrad.agents.optimizer import clip_by_norm
from mtrl_fairgrad.agents.policy import merge
from mtrl_fairgrad.gradients.conventions import CONVENTIONS
from mtrl_fairgrad.weighting import solvers
from tests.unit.agents.conftest import (
    ACTION,
    DIMENSIONS,
    TASKS,
    draw_update,
    make_agent,
    small_config,
    train,
)

LS_MEAN = {"method": "ls", "options": {"reduction": "mean"}}


def agent_of(name, method="ls", options=None, convention="plain", **changes):
    critic, actor = (make_method(method, **(options or {})) for _ in range(2))
    config = small_config(name, **changes)
    return SAC(
        config,
        *DIMENSIONS,
        (0,),
        TASKS,
        critic,
        actor,
        dtype=torch.float64,
        convention=CONVENTIONS[convention],
    )


def copies(part):
    return {
        **{
            ("shared", name): value[0].clone().requires_grad_()
            for name, value in part.shared.items()
        },
        **{("own", name): value[0].clone().requires_grad_() for name, value in part.own.items()},
    }


def of_task(parameters, k):
    return {
        name: value if group == "shared" else value[k]
        for (group, name), value in parameters.items()
    }


# ---- the critics' loss ----


def twin_loss_by_hand(critics, batch, targets, k):
    """mse(Q1) + mse(Q2) of one task."""
    values = networks.critic_outputs(
        critics, batch.observations[0, k], batch.actions[0, k]
    ).squeeze(-1)
    mse = torch.nn.functional.mse_loss
    return mse(values[0], targets[0, k]) + mse(values[1], targets[0, k])


def gramian_by_hand(agent, batch, targets):
    critics = copies(agent.critics)
    rows = []
    for k in range(TASKS):
        loss = twin_loss_by_hand(of_task(critics, k), batch, targets, k)
        gradients = torch.autograd.grad(loss, list(critics.values()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def test_the_sum_of_both_twins_errors_gives_the_papers_gramian_and_direction():
    options = {"alpha": 2.0, "solver": "sgd"}
    agents = [
        make_agent(options=options, twin_loss=choice, max_gradient_norm=None)
        for choice in ("sum", "mean")
    ]
    batch, noise = draw_update(SeedStreams((0,)))
    targets = agents[0].bellman_targets(batch, noise, agents[0].log_temperature.exp())
    losses = [agent.loss_of_critics(batch, targets).values() for agent in agents]
    torch.testing.assert_close(losses[0], 2 * losses[1])
    paper = gramian_by_hand(agents[0], batch, targets)
    infos = [agent.update(batch, noise) for agent in agents]
    torch.testing.assert_close(infos[0].critic.diagnostics["gramian"][0], paper)
    torch.testing.assert_close(infos[1].critic.diagnostics["gramian"][0], paper / 4)
    weights = solvers.sgd(paper, 2.0).weights
    torch.testing.assert_close(infos[0].critic.diagnostics["weights"][0], weights.double())
    assert not torch.allclose(
        infos[1].critic.diagnostics["weights"][0] / infos[0].critic.diagnostics["weights"][0],
        torch.ones(TASKS).double(),
        rtol=0.01,
    ), "the solver depends on the scale, so the mean is another method"


@pytest.mark.parametrize("choice", ["mean", "sum"])
def test_single_task_agents_use_the_same_losses(choice):
    config = small_config("stl", twin_loss=choice)
    agent = SingleTaskSAC(config, *DIMENSIONS, (0,), TASKS, dtype=torch.float64)
    together = make_agent(**LS_MEAN)
    batch, noise = draw_update(SeedStreams((0,)))
    targets = together.bellman_targets(batch, noise, together.log_temperature.exp())
    losses = agent.update(batch, noise).critic.losses
    torch.testing.assert_close(
        losses, together.loss_of_critics(batch, targets).values() * (2 if choice == "sum" else 1)
    )


# ---- the temperature's loss ----


@pytest.mark.parametrize("sharing", ["per_task", "shared"])
def test_the_linear_loss_of_temperatures_is_the_papers(sharing):
    agent = make_agent(temperature_loss="linear", temperature=sharing, initial_temperature=0.3)
    batch, noise = draw_update(SeedStreams((0,)))
    log_temperature = agent.log_temperature[0].clone().requires_grad_()
    entropy = agent.update(batch, noise).entropy[0]
    log_shared = log_temperature.mean() if sharing == "shared" else log_temperature
    loss = (log_shared.exp() * (entropy + ACTION)).mean()
    [gradient] = torch.autograd.grad(loss, [log_temperature])
    # Ours has K equal entries in place of a shared one, and no mean over K separate ones.
    gradient = gradient.sum().expand(TASKS) if sharing == "shared" else gradient * TASKS
    moments = agent.temperature.state()["adam.exp_avg.own.log_temperature"][0]
    torch.testing.assert_close(moments, 0.1 * gradient)


# ---- own parameters ----


def reference_step(agent, batch, noise):
    """One update of the mean loss over tasks, all parameters of a network clipped together."""
    config = agent.config
    critics, actor = copies(agent.critics), copies(agent.actor)
    temperature = agent.log_temperature[0].exp()
    targets = agent.bellman_targets(batch, noise, agent.log_temperature.exp())

    def step(parameters, loss):
        leaves = list(parameters.values())
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
            leaf.grad = gradient
        norm = torch.nn.utils.clip_grad_norm_(leaves, config.max_gradient_norm)
        torch.optim.Adam(leaves, config.learning_rate, eps=config.adam_epsilon).step()
        return norm

    def critic_loss(k):
        of = of_task(critics, k)
        inputs = networks.with_encoding(of, batch.observations[0, k])
        return (
            (networks.critic_outputs(of, inputs, batch.actions[0, k]).squeeze(-1) - targets[0, k])
            .square()
            .mean()
        )

    def actor_loss(k):
        of = {name: value.detach() for name, value in of_task(critics, k).items()}
        inputs = networks.with_encoding(of, batch.observations[0, k])
        actions, log_density = networks.sample(
            of_task(actor, k), inputs, noise.actions[0, k], agent.losses.log_std
        )
        return (
            temperature[k] * log_density
            - networks.critic_outputs(of, inputs, actions).squeeze(-1).amin(0)
        ).mean()

    norms = [
        step(parameters, sum(loss(k) for k in range(TASKS)) / TASKS)
        for parameters, loss in ((critics, critic_loss), (actor, actor_loss))
    ]
    return critics, actor, norms


@pytest.mark.parametrize("name", ["mhsac", "mtsac_te", "mtsac"])
def test_an_ls_update_with_own_parameters_is_that_of_the_mean_loss(name):
    agent = agent_of(name, options={"reduction": "mean"}, max_gradient_norm=0.05)
    train(agent, (0,), 3)
    for part in (agent.critics, agent.actor):  # so that one step of Adam is that of a new optimiser
        part.load_state({n: v for n, v in part.state().items() if not n.startswith("adam.")})
    batch, noise = draw_update(SeedStreams((5,)))
    *expected, norms = reference_step(agent, batch, noise)
    info = agent.update(batch, noise)
    assert min(norms) > 0.05, "clipping must be active"
    torch.testing.assert_close(info.critic.gradient_norm[0], norms[0])
    torch.testing.assert_close(info.actor.gradient_norm[0], norms[1])
    for part, reference in zip((agent.critics, agent.actor), expected, strict=True):
        for (group, key), value in reference.items():
            torch.testing.assert_close(
                getattr(part, group)[key][0], value.detach(), rtol=1e-8, atol=1e-10
            )


def first_moments(part):
    """A tenth of the clipped gradient that the first step saw, by name."""
    entries = part.state()
    return {
        name: entries[f"adam.exp_avg.{name}"][0] for name in merge(shared=part.shared, own=part.own)
    }


def norm_of(moments, group):
    parts = [value.norm() for name, value in moments.items() if name.startswith(f"{group}.")]
    return 10 * torch.stack(parts).norm().item()


@pytest.mark.parametrize("method", ["ls", "fairgrad", "pcgrad", "nash_mtl"])
def test_clipped_apart_the_trunk_moves_as_without_heads(method):
    agents = {
        choice: agent_of("mhsac", method, own_gradients=choice, max_gradient_norm=limit)
        for choice, limit in (("apart", 0.05), ("plain", None))
    }
    batch, noise = draw_update(SeedStreams((5,)))
    numbers = [agents["apart"].critic_method.draw(SeedStreams((6,)).generators) for _ in range(2)]
    noise = type(noise)(noise.next_actions, noise.actions, *numbers)
    for agent in agents.values():
        agent.update(batch, noise)
    clipped, plain = (first_moments(agent.critics) for agent in agents.values())
    for group in ("shared", "own"):
        whole = norm_of(plain, group)
        assert whole > 0.05, "clipping must be active"
        assert norm_of(clipped, group) == pytest.approx(0.05, rel=1e-4)
        for name, value in clipped.items():
            if name.startswith(f"{group}."):
                torch.testing.assert_close(value, plain[name] * 0.05 / (whole + 1e-6))


def test_groups_clipped_apart_have_a_norm_of_their_own_and_one_is_reported():
    shared, own = {"a": torch.tensor([[0.3], [3.0]])}, {"h": torch.tensor([[[4.0]], [[0.4]]])}
    clipped = clip_by_norm(shared, own, 1.0, apart=True)
    torch.testing.assert_close(clipped.shared["a"].flatten(), torch.tensor([0.3, 1.0]))
    torch.testing.assert_close(clipped.own["h"].flatten(), torch.tensor([1.0, 0.4]))
    torch.testing.assert_close(clipped.norm, torch.tensor([math.hypot(0.3, 4), math.hypot(3, 0.4)]))


@pytest.mark.parametrize(
    ("convention", "method", "share"),
    [
        ("plain", "ls", 1 / TASKS),
        ("plain", "fairgrad", 1 / TASKS),
        ("libmtl", "ls", 1),  # weighted by the method
        ("libmtl", "fairgrad", 1),
        ("official_supervised", "ls", 1),
        ("official_supervised", "fairgrad", 1),  # the direction is K times as long, too
    ],
)
def test_only_plain_gradients_beside_a_mean_direction_are_divided(convention, method, share):
    gradients = []
    for choice in ("mean", "plain"):
        agent = agent_of(
            "mhsac", method, convention=convention, own_gradients=choice, max_gradient_norm=None
        )
        agent.update(*draw_update(SeedStreams((5,))))
        gradients.append(first_moments(agent.critics))
    for name, value in gradients[0].items():
        factor = share if name.startswith("own.") else 1
        torch.testing.assert_close(value, gradients[1][name] * factor)


def test_weighted_by_ls_own_gradients_are_those_of_the_mean_loss():
    gradients = []
    for convention in ("plain", "libmtl"):
        agent = agent_of("mhsac", options={"reduction": "mean"}, convention=convention)
        agent.update(*draw_update(SeedStreams((5,))))
        gradients.append(first_moments(agent.critics))
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name])
