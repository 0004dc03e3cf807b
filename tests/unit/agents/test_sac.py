"""The update's equations, the independence of seeds, and the exactness of a restored agent."""

import math

import pytest
import torch

from mtrl_fairgrad.agents import SeedStreams, networks
from mtrl_fairgrad.agents.sac import clip_by_norm
from tests.unit.agents.conftest import (
    ACTION,
    BATCH,
    OBSERVATION,
    TASKS,
    draw_update,
    first_faults,
    make_agent,
    train,
)

METHODS = [("ls", {}), ("fairgrad", {"solver": "newton"}), ("fairgrad", {"solver": "sgd"})]


def seed_slice(agent, index):
    """Every stacked tensor of one seed."""
    parts = {**agent.actor.shared, **agent.critics.shared, **agent.temperature.own}
    return {name: value[index] for name, value in parts.items()}


# ---- several seeds ----


@pytest.mark.parametrize(("method", "options"), METHODS)
@pytest.mark.parametrize(
    ("dtype", "updates", "tolerance"), [(torch.float64, 100, 1e-6), (torch.float32, 1, 1e-5)]
)
def test_a_seed_trains_with_others_as_it_does_alone(method, options, dtype, updates, tolerance):
    seeds = (3, 11, 7)
    settings = {"method": method, "options": options, "dtype": dtype, "max_gradient_norm": 0.05}
    together = make_agent(seeds, **settings)
    metrics = train(together, seeds, updates, dtype)
    assert (metrics["critic/gradient_norm"] > 0.05).all(), "clipping must be active"
    for index, seed in enumerate(seeds):
        alone = make_agent((seed,), **settings)
        train(alone, (seed,), updates, dtype)
        for name, value in seed_slice(alone, 0).items():
            difference = torch.linalg.vector_norm(value - seed_slice(together, index)[name])
            assert difference <= tolerance * torch.linalg.vector_norm(value).clamp_min(1e-3), name


def test_seeds_differ_and_the_same_seed_agrees():
    agent = make_agent((0, 1))
    assert not torch.equal(*agent.actor.shared["weight0"])
    torch.testing.assert_close(
        make_agent((1,)).actor.shared["weight0"][0], agent.actor.shared["weight0"][1]
    )


def test_initialisation_is_per_layer_he_uniform():
    bound = math.sqrt(6 / OBSERVATION)
    weight = make_agent(tuple(range(8))).actor.shared["weight0"]
    assert weight.abs().max() <= bound and weight.abs().max() > 0.95 * bound
    assert abs(weight.std().item() - bound / math.sqrt(3)) < 0.05 * bound


def test_clipping_works_on_each_seeds_whole_gradient():
    shared = {
        "a": torch.tensor([[3.0, 0.0], [0.3, 0.0]]),
        "b": torch.tensor([[[0.0], [4.0]], [[0.0], [0.4]]]),
    }
    own = {"h": torch.zeros(2, TASKS, 1)}
    clipped, _, norm = clip_by_norm(shared, own, 1.0)
    torch.testing.assert_close(norm, torch.tensor([5.0, 0.5]))
    torch.testing.assert_close(clipped["a"][0], torch.tensor([0.6, 0.0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(clipped["b"][1], shared["b"][1])
    assert clip_by_norm(shared, own, None)[0] is shared


def test_clipping_counts_own_gradients_too():
    shared, own = {"a": torch.tensor([[3.0]])}, {"h": torch.tensor([[[4.0], [0.0]]])}
    clipped, clipped_own, norm = clip_by_norm(shared, own, 1.0)
    assert norm.item() == 5.0
    torch.testing.assert_close(clipped["a"], torch.tensor([[0.6]]), rtol=1e-5, atol=0)
    torch.testing.assert_close(clipped_own["h"][0, 0], torch.tensor([0.8]), rtol=1e-5, atol=0)


# ---- equations ----


def test_log_density_is_that_of_the_squashed_gaussian():
    agent = make_agent(dtype=torch.float64)
    actor = {name: value[0] * 3 for name, value in agent.actor.shared.items()}
    streams = SeedStreams((5,))
    obs, noise = (
        streams.normal(BATCH, OBSERVATION)[0].double(),
        streams.normal(BATCH, ACTION)[0].double(),
    )
    actions, log_density = networks.sample(actor, obs, noise, agent.losses.log_std)
    mean, log_std = networks.policy(actor, obs, agent.losses.log_std)
    base = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(
        base, torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(
        log_density, squashed.log_prob(actions).sum(-1), rtol=1e-6, atol=1e-6
    )


def test_log_density_stays_finite_where_tanh_saturates():
    actor = {
        "weight0": torch.zeros(2 * ACTION, OBSERVATION),
        "bias0": torch.tensor([60.0, -60.0, 0.0, 0.0]),
    }
    actions, log_density = networks.sample(
        actor, torch.zeros(4, OBSERVATION), torch.ones(4, ACTION), networks.LogStd()
    )
    assert torch.isfinite(log_density).all() and actions.abs().max() <= 1


def targets_by_hand(agent, batch, noise, s, k):
    """Bellman targets of one task of one seed, written out."""
    actor = {name: value[s] for name, value in agent.actor.shared.items()}
    critics = {name: value[s] for name, value in agent.target_critics.items()}
    obs = batch.next_observations[s, k]
    actions, log_density = networks.sample(
        actor, obs, noise.next_actions[s, k], agent.losses.log_std
    )
    inputs = torch.cat([obs, actions], -1)
    first, second = (
        networks.mlp(critics, inputs, "first."),
        networks.mlp(critics, inputs, "second."),
    )
    temperature = agent.log_temperature[s, k].exp()
    value = torch.minimum(first, second).squeeze(-1) - temperature * log_density
    return (
        agent.config.reward_scale * batch.rewards[s, k]
        + agent.config.discount * (1 - batch.terminated[s, k]) * value
    )


def test_targets_are_the_bellman_equation_with_actions_sampled_at_the_next_observation():
    seeds = (0, 1)
    agent = make_agent(seeds)
    train(agent, seeds, 3)
    batch, noise = draw_update(SeedStreams(seeds))
    temperature = agent.log_temperature.exp()
    result = agent.bellman_targets(batch, noise, temperature)
    for s in range(2):
        for k in range(TASKS):
            torch.testing.assert_close(result[s, k], targets_by_hand(agent, batch, noise, s, k))
    moved = batch._replace(observations=batch.observations + 1)
    assert torch.equal(agent.bellman_targets(moved, noise, temperature), result), (
        "current observations play no part"
    )


def test_time_limits_bootstrap_and_terminations_do_not():
    agent = make_agent()
    batch, noise = draw_update(SeedStreams((0,)))
    temperature = agent.log_temperature.exp()
    ended = agent.bellman_targets(
        batch._replace(terminated=torch.ones_like(batch.terminated)), noise, temperature
    )
    cut = agent.bellman_targets(
        batch._replace(terminated=torch.zeros_like(batch.terminated)), noise, temperature
    )
    torch.testing.assert_close(ended, batch.rewards)
    assert (cut != batch.rewards).all()


def plain_sac_step(agent, batch, noise):
    """One LS update of one seed with plain autograd and a plain optimiser; returns the new
    parameters.
    """
    config, k = agent.config, range(TASKS)
    leaf = {
        part: {n: v[0].clone().requires_grad_() for n, v in learned.shared.items()}
        for part, learned in (("actor", agent.actor), ("critics", agent.critics))
    }
    log_temperature = agent.log_temperature[0].clone().requires_grad_()
    targets = torch.stack([targets_by_hand(agent, batch, noise, 0, i) for i in k]).detach()
    temperature = log_temperature.exp().detach()

    def step(parameters, loss, learning_rate):
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if config.max_gradient_norm and parameters[0] is not log_temperature:
            torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm)
        adamw = config.optimizer == "adamw" and parameters[0] is not log_temperature
        decay = config.weight_decay if adamw else 0.0
        torch.optim.AdamW(
            parameters, learning_rate, eps=config.adam_epsilon, weight_decay=decay
        ).step()

    def critic_loss(i):
        values = networks.critic_outputs(
            leaf["critics"], batch.observations[0, i], batch.actions[0, i]
        ).squeeze(-1)
        return ((values[0] - targets[i]) ** 2).mean() / 2 + (
            (values[1] - targets[i]) ** 2
        ).mean() / 2

    step(
        list(leaf["critics"].values()), sum(critic_loss(i) for i in k) / TASKS, config.learning_rate
    )
    entropies = []

    def actor_loss(i):
        obs = batch.observations[0, i]
        actions, log_density = networks.sample(
            leaf["actor"], obs, noise.actions[0, i], agent.losses.log_std
        )
        entropies.append(-log_density.mean().detach())
        values = networks.critic_outputs(leaf["critics"], obs, actions).squeeze(-1)
        return (temperature[i] * log_density - torch.minimum(values[0], values[1])).mean()

    step(list(leaf["actor"].values()), sum(actor_loss(i) for i in k) / TASKS, config.learning_rate)
    surplus = torch.stack(entropies) + ACTION  # entropy − target entropy, with target −|A|
    step([log_temperature], (log_temperature * surplus).sum(), config.temperature_learning_rate)
    return leaf, log_temperature


@pytest.mark.parametrize(
    "options", [{}, {"optimizer": "adamw", "weight_decay": 2.0, "initial_temperature": 0.3}]
)
def test_an_ls_update_is_the_textbook_update(options):
    agent = make_agent(
        method="ls",
        options={"reduction": "mean"},
        learning_rate=1e-3,
        max_gradient_norm=0.2,
        reward_scale=0.3,
        **options,
    )
    batch, noise = draw_update(SeedStreams((0,)))
    leaf, log_temperature = plain_sac_step(agent, batch, noise)
    before = {name: value.clone() for name, value in agent.target_critics.items()}
    agent.update(batch, noise)
    for part, learned in (("actor", agent.actor), ("critics", agent.critics)):
        for name, value in learned.shared.items():
            torch.testing.assert_close(value[0], leaf[part][name].detach(), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(agent.log_temperature[0], log_temperature.detach())
    for name, target in agent.target_critics.items():
        torch.testing.assert_close(
            target, before[name] * 0.995 + 0.005 * agent.critics.shared[name]
        )


def test_temperature_falls_when_the_policy_is_more_random_than_the_target():
    agent = make_agent(target_entropy=-50.0)
    before = agent.log_temperature.clone()
    train(agent, (0,), 1)
    assert (agent.log_temperature < before).all()


def test_with_one_task_fairgrad_moves_along_the_tasks_gradient():
    streams = (SeedStreams((0,)), SeedStreams((0,)))
    agents = [make_agent(method=m, tasks=1, max_gradient_norm=1e-3) for m in ("ls", "fairgrad")]
    for agent, stream in zip(agents, streams, strict=True):
        agent.update(*draw_update(stream, tasks=1))
    for name, value in agents[0].critics.shared.items():
        torch.testing.assert_close(value, agents[1].critics.shared[name], rtol=1e-4, atol=1e-6)


def test_the_critics_learn_a_known_value():
    """Constant reward 1 and termination: the value of everything is 1."""
    agent = make_agent(learning_rate=3e-3, options={"alpha": 1.0, "solver": "newton"})
    streams = SeedStreams((0,))
    for _ in range(300):
        batch, noise = draw_update(streams)
        one = torch.ones_like(batch.rewards)
        info = agent.update(batch._replace(rewards=one, terminated=one), noise)
    torch.testing.assert_close(info.value, torch.ones(1, TASKS).double(), rtol=0, atol=0.1)


# ---- acting ----


def test_act_is_per_seed_and_the_mode_is_deterministic():
    agent = make_agent((0, 1))
    observations = (
        SeedStreams((4,)).normal(TASKS, OBSERVATION).double().expand(2, TASKS, OBSERVATION)
    )
    mode = agent.act(observations)
    assert mode.shape == (2, TASKS, ACTION) and torch.equal(mode, agent.act(observations))
    actor = {name: value[1] for name, value in agent.actor.shared.items()}
    expected = networks.policy(actor, observations[1], agent.losses.log_std)[0].tanh()
    torch.testing.assert_close(mode[1], expected)
    sampled = agent.act(observations, torch.ones(2, TASKS, ACTION).double())
    assert (sampled > mode).all()


# ---- faults ----


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_fault_is_recorded_with_its_update_seed_and_task(method, options):
    agent = make_agent((0, 1), method=method, options=options)
    streams = SeedStreams((0, 1))
    agent.update(*draw_update(streams))
    batch, noise = draw_update(streams)
    batch.rewards[1, 2, 0] = math.nan
    agent.update(batch, noise)
    agent.update(*draw_update(streams))
    fault = first_faults(agent)
    assert fault[1, 2] == 1, "the second update, counted from 0"
    assert (fault[0] == -1).all(), "the other seed is not affected"
    assert all(torch.isfinite(value).all() for value in seed_slice(agent, 0).values())


# ---- persistence ----


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_a_restored_agent_continues_bit_for_bit(method, options):
    seeds = (0, 1)
    agent, streams = make_agent(seeds, method=method, options=options), SeedStreams(seeds)
    for _ in range(5):
        agent.update(*draw_update(streams))
    saved = {name: value.clone() for name, value in agent.state().items()}
    generators = streams.state().clone()
    for _ in range(5):
        agent.update(*draw_update(streams))

    restored, again = make_agent((8, 9), method=method, options=options), SeedStreams((8, 9))
    restored.load_state(saved)
    again.load_state(generators)
    for _ in range(5):
        restored.update(*draw_update(again))
    for name, value in agent.state().items():
        assert torch.equal(value, restored.state()[name]), name


def test_an_incomplete_state_is_refused():
    agent = make_agent((0,))
    train(agent, (0,), 2)
    whole = agent.state()
    for part in ("targets/", "adam.", "updates"):
        with pytest.raises(ValueError, match="configuration the run was started with"):
            make_agent((0,)).load_state(
                {name: value for name, value in whole.items() if part not in name}
            )


def test_a_nan_gradient_of_a_finite_loss_is_a_fault():
    agent = make_agent((0, 1), method="ls")
    streams = SeedStreams((0, 1))
    info = agent.update(*draw_update(streams))
    info.actor.gradient_norm[1] = math.nan
    agent.guard.check_actor(info.actor, info.temperature, agent.updates)
    assert (first_faults(agent)[0] == -1).all() and (first_faults(agent)[1] == 1).all()


def test_another_configurations_state_is_refused():
    state = make_agent((0,)).state()
    with pytest.raises(ValueError, match="configuration the run was started with"):
        make_agent((0, 1)).load_state(state)


def test_update_needs_no_graph_and_returns_none():
    agent = make_agent()
    metrics = train(agent, (0,), 1)
    assert not any(value.requires_grad for value in metrics.values())
    assert metrics["actor/gramian"].shape == (1, TASKS, TASKS) and metrics["entropy"].shape == (
        1,
        TASKS,
    )


def test_conflicts_are_the_gramians_of_the_same_losses():
    agent = make_agent(options={"solver": "newton"}, learning_rate=1e-12)
    batch, noise = draw_update(SeedStreams((0,)))
    result = agent.conflicts(batch, noise)
    info = agent.update(batch, noise)
    torch.testing.assert_close(result["critic/gramian"], info.critic.gramian)
    torch.testing.assert_close(result["actor/gramian"], info.actor.gramian, rtol=1e-5, atol=1e-8)


def test_signal_is_the_product_of_the_gradients_of_halves():
    agent = make_agent(learning_rate=1e-12)
    batch, noise = draw_update(SeedStreams((0,)))
    result = agent.conflicts(batch, noise)
    targets = agent.bellman_targets(batch, noise, agent.log_temperature.exp())
    half = batch.rewards.shape[-1] // 2

    def gradients_of(part):
        inputs = batch._replace(
            **{name: getattr(batch, name)[:, :, part] for name in ("observations", "actions")}
        )
        rows = agent.loss_of_critics(inputs, targets[:, :, part]).gradients().jacobian
        return torch.cat([row.flatten(2) for row in rows.values()], -1).double()

    first, second = gradients_of(slice(half)), gradients_of(slice(half, None))
    whole = (first + second) / 2
    expected = (first * second).sum(-1) / whole.square().sum(-1)
    torch.testing.assert_close(result["critic/signal"].double(), expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_halves_has_no_signal():
    agent = make_agent()
    batch, noise = draw_update(SeedStreams((0,)))
    odd = [each[:, :, 1:] for each in (*batch[:5], noise.next_actions, noise.actions)]
    noise = noise._replace(next_actions=odd[5], actions=odd[6])
    found = agent.conflicts(type(batch)(*odd[:5]), noise)
    assert found.keys() == {"critic/gramian", "actor/gramian"}


def test_noise_and_batch_are_the_only_randomness():
    torch.manual_seed(0)
    first = make_agent()
    train(first, (0,), 3)
    torch.manual_seed(1)
    second = make_agent()
    train(second, (0,), 3)
    assert all(torch.equal(v, second.state()[n]) for n, v in first.state().items())
