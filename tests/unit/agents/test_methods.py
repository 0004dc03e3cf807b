"""SAC and methods: losses after the step, conventions, faults, positive losses, state."""

import math

import pytest
import torch

from mtrl_fairgrad import LS, FairGrad, make_method, method_names
from mtrl_fairgrad.agents import SAC, SeedStreams
from mtrl_fairgrad.agents.update_info import NetworkUpdate
from mtrl_fairgrad.gradients.conventions import CONVENTIONS, PLAIN, Convention
from mtrl_fairgrad.weighting import GramianWeighting, LossWeighting, Weights
from tests.unit.agents.conftest import (
    DIMENSIONS,
    TASKS,
    draw_update,
    first_faults,
    learn,
    small_config,
)

SEEDS = (0, 1)


def agent_of(critic, actor, convention=PLAIN, **changes):
    return SAC(
        small_config(**changes),
        *DIMENSIONS,
        SEEDS,
        TASKS,
        critic,
        actor,
        dtype=torch.float64,
        convention=convention,
    )


class RecordingLosses(LossWeighting):
    """Record the losses before and after the step."""

    looks_after_step = True

    def forward(self, losses, noise=None):
        self.before = losses
        return Weights(torch.ones_like(losses), {})

    def after_step(self, losses):
        assert not losses.requires_grad
        self.after = losses


class RecordingGramian(GramianWeighting):
    """The same for a method that builds a Jacobian."""

    looks_after_step = True
    after_step = RecordingLosses.after_step

    def forward(self, gramian, losses=None, noise=None):
        self.before = losses
        return Weights(torch.ones_like(losses), {})


class Failing(GramianWeighting):
    """Return NaN for the second seed."""

    def forward(self, gramian, losses=None, noise=None):
        weights = torch.ones_like(losses)
        weights[1] = math.nan
        return Weights(weights, {})


class Positive(LossWeighting):
    """Declare that it needs positive losses."""

    needs_positive_losses = True


@pytest.mark.parametrize("kind", [RecordingLosses, RecordingGramian])
def test_a_method_can_get_the_losses_of_the_same_batch_after_the_step(kind):
    critic, actor = kind(), kind()
    agent = agent_of(critic, actor)
    batch, noise = draw_update(SeedStreams(SEEDS))
    temperature = agent.log_temperature.exp()
    targets = agent.bellman_targets(batch, noise, temperature)
    info = agent.update(batch, noise)
    torch.testing.assert_close(critic.before, info.critic.losses)
    for s in range(2):
        for k in range(TASKS):
            arguments = (batch.observations[s, k], batch.actions[s, k], targets[s, k])
            now = {name: value[s] for name, value in agent.critics.shared.items()}
            torch.testing.assert_close(
                critic.after[s, k], agent.losses.critic_loss(now, {}, {}, *arguments)[0]
            )
            actors = {name: value[s] for name, value in agent.actor.shared.items()}
            arguments = (batch.observations[s, k], noise.actions[s, k], temperature[s, k])
            torch.testing.assert_close(
                actor.after[s, k], agent.losses.actor_loss(actors, now, {}, {}, *arguments)[0]
            )
    assert (critic.after.sum(-1) < critic.before.sum(-1)).all() and (
        actor.after.sum(-1) < actor.before.sum(-1)
    ).all()


def test_losses_after_the_step_change_nothing_else():
    watched, plain = agent_of(RecordingLosses(), RecordingLosses()), agent_of(LS(), LS())
    for agent in (watched, plain):
        agent.update(*draw_update(SeedStreams(SEEDS)))
    assert all(torch.equal(value, plain.state()[name]) for name, value in watched.state().items())


def test_an_actors_method_must_accept_negative_losses():
    agent_of(Positive(), LS())
    with pytest.raises(ValueError, match="actor_method needs positive losses"):
        agent_of(LS(), Positive())


def norms_after(convention, updates=3):
    agent, streams = (
        agent_of(FairGrad(), FairGrad(), convention, max_gradient_norm=None),
        SeedStreams(SEEDS),
    )
    for _ in range(updates):
        info = agent.update(*draw_update(streams))
    return info.critic.gradient_norm, info.actor.gradient_norm


def test_a_convention_scales_and_limits_the_combined_direction():
    for plain, longer in zip(
        norms_after(PLAIN, 1), norms_after(Convention(scale="tasks"), 1), strict=True
    ):
        torch.testing.assert_close(longer, plain * TASKS, rtol=1e-3, atol=0)
    for limited in norms_after(CONVENTIONS["official_supervised"]):
        assert (limited <= 1 + 1e-6).all() and (limited > 0.9).all()


def test_a_method_that_returns_nan_is_a_fault_of_the_whole_seed():
    agent = agent_of(Failing(), LS())
    agent.update(*draw_update(SeedStreams(SEEDS)))
    assert first_faults(agent).tolist() == [[-1] * TASKS, [0] * TASKS]


def test_a_fault_of_one_task_is_not_counted_for_the_others():
    agent = agent_of(LS(), LS())
    losses, norm = torch.zeros(2, TASKS), torch.zeros(2)
    losses[1, 2], norm[1] = math.inf, math.nan
    update = NetworkUpdate(losses, norm, {})
    agent.guard.check_actor(update, torch.ones(2, TASKS), agent.updates)
    assert first_faults(agent).tolist() == [[-1] * TASKS, [-1, -1, 0]]


# ---- every registered method ----

TOGETHER = [name for name in method_names() if name != "stl"]  # which needs a SingleTaskSAC


def agent_by(name, seeds=SEEDS):
    critic, actor = make_method(name), make_method(name)
    return SAC(
        small_config(),
        *DIMENSIONS,
        seeds,
        TASKS,
        critic,
        LS() if actor.needs_positive_losses else actor,
        dtype=torch.float64,
    )


@pytest.mark.parametrize("name", TOGETHER)
def test_every_method_trains_a_seed_with_others_as_it_does_alone(name):
    together = agent_by(name)
    metrics = learn(together, SeedStreams(SEEDS), 5)
    assert (first_faults(together) == -1).all()
    assert all(
        value.shape[0] == len(SEEDS) and not value.requires_grad for value in metrics.values()
    )
    for index, seed in enumerate(SEEDS):
        alone = agent_by(name, (seed,))
        learn(alone, SeedStreams((seed,)), 5)
        for part, values in (("actor", alone.actor.shared), ("critics", alone.critics.shared)):
            for key, value in values.items():
                result = getattr(together, part).shared[key][index]
                torch.testing.assert_close(
                    result, value[0], rtol=1e-6, atol=1e-6, msg=f"{part} {key}"
                )


@pytest.mark.parametrize("updates", [0, 3])
@pytest.mark.parametrize("name", TOGETHER)
def test_every_method_continues_bit_for_bit(name, updates):
    agent, streams = agent_by(name), SeedStreams(SEEDS)
    if updates:
        learn(agent, streams, updates)
    restored, again = agent_by(name, (8, 9)), SeedStreams((8, 9))
    restored.load_state({key: value.clone() for key, value in agent.state().items()})
    again.load_state(streams.state().clone())
    learn(agent, streams, 3)
    learn(restored, again, 3)
    for key, value in agent.state().items():
        assert torch.equal(value, restored.state()[key]), key
