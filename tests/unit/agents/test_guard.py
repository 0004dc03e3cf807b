"""The guard: faults it detects, seeds it protects, and seeds that must not be affected."""

import itertools
import math
from dataclasses import fields

import pytest
import torch

from mtrl_fairgrad import FairGrad, make_method
from mtrl_fairgrad.agents import SAC, SeedStreams, SingleTaskSAC
from mtrl_fairgrad.agents.guard import Guard, respond
from mtrl_fairgrad.agents.update_info import NetworkUpdate
from mtrl_fairgrad.config.guard import CHECKS, CONDITIONS, GuardConfig
from mtrl_fairgrad.gradients.graph_capture import CapturedFunction
from mtrl_fairgrad.weighting import method_names
from tests.unit.agents.conftest import DIMENSIONS, TASKS, draw_update, learn, small_config

SEEDS = (0, 1, 2)
RESPONSES = {
    field.name: field.metadata["choices"]
    for field in fields(GuardConfig)
    if field.metadata["choices"]
}


def agent_of(guard=None, method="fairgrad", seeds=SEEDS, **options):
    critic, actor = make_method(method, **options), make_method(method, **options)
    if actor.needs_positive_losses:
        actor = make_method("ls", reduction="mean")
    return SAC(
        small_config(), *DIMENSIONS, seeds, TASKS, critic, actor, dtype=torch.float64, guard=guard
    )


def single_tasks():
    return SingleTaskSAC(small_config("stl"), *DIMENSIONS, SEEDS, TASKS, dtype=torch.float64)


def copied(agent):
    return {name: value.clone() for name, value in agent.state().items()}


def of_seed(state, n):
    """The state of the seed at index n, without shared counters and the guard's counts."""
    return {k: v[n] for k, v in state.items() if v.ndim and not k.startswith("guard/")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def spoiled(streams, seed=1, task=2):
    """An update whose batch has a NaN reward."""
    batch, noise = draw_update(streams)
    batch.rewards[seed, task, 0] = math.nan
    return batch, noise


def counts(agent, network, condition):
    return agent.faults().counts[CHECKS.index((network, condition))].tolist()


@pytest.mark.parametrize("spoilt_first", [True, False])
@pytest.mark.parametrize("name", [name for name in method_names() if name != "stl"])
def test_a_seed_with_a_nan_loss_keeps_its_parameters_and_the_others_are_not_affected(
    name, spoilt_first
):
    """Also in the very first update, before Adam has moments."""
    agent, undisturbed = agent_of(method=name), agent_of(method=name)
    streams, same_streams = SeedStreams(SEEDS), SeedStreams(SEEDS)
    if not spoilt_first:
        learn(agent, streams, 3)
        learn(undisturbed, same_streams, 3)
    before = of_seed(copied(agent), 1)
    for number in range(3):
        for one, numbers in ((agent, streams), (undisturbed, same_streams)):
            batch, noise = draw_update(numbers)
            drawn = [
                method.draw(numbers.generators) for method in (one.critic_method, one.actor_method)
            ]
            if one is agent and number == 0:
                batch.rewards[1, 2, 0] = math.nan
            one.update(batch, noise._replace(critic_method=drawn[0], actor_method=drawn[1]))
    after = of_seed(copied(agent), 1)
    learned = {key: value for key, value in after.items() if "method/" not in key}
    assert all(
        torch.equal(before.get(key, torch.zeros_like(value)), value)
        for key, value in learned.items()
    )
    for n in (0, 2):
        assert same(of_seed(copied(agent), n), of_seed(copied(undisturbed), n))
    assert agent.faults().stopped.tolist() == [[False] * TASKS, [True] * TASKS, [False] * TASKS]
    assert sum(map(sum, counts(agent, "critic", "non_finite"))) in (1, TASKS), (
        "counted once, since the seed is stopped"
    )


NOISE_RESPONSES = {"gramian": "half_batches", "gramian_decay": 0.9, "solve_every": 3}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fairgrad", NOISE_RESPONSES),
        *((name, {}) for name in ("fairgrad", "famo", "moco", "dwa", "nash_mtl")),
        *((name, {}) for name in ("gradvac", "db_mtl", "uw")),
    ],
)
def test_a_skipped_update_changes_neither_the_seed_nor_its_methods_state(name, options):
    agent = agent_of(GuardConfig(non_finite="skip"), name, **options)
    streams = SeedStreams(SEEDS)
    learn(agent, streams, 3)
    before = of_seed(copied(agent), 1)
    batch, noise = spoiled(streams)
    drawn = [
        method.draw(streams.generators) for method in (agent.critic_method, agent.actor_method)
    ]
    agent.update(batch, noise._replace(critic_method=drawn[0], actor_method=drawn[1]))
    assert same(of_seed(copied(agent), 1), before)
    assert not agent.faults().stopped.any()
    learn(agent, streams, 2)
    after = of_seed(copied(agent), 1)
    moved = [
        key
        for key, value in before.items()
        if key.startswith("actor/shared") and torch.equal(value, after[key])
    ]
    assert not moved and all(
        value.isfinite().all() for key, value in after.items() if "method/" not in key
    )


def test_a_seed_that_skips_the_critics_step_skips_the_actors_too():
    agent, streams = agent_of(GuardConfig(non_finite="skip"), "ls"), SeedStreams(SEEDS)
    agent.update(*spoiled(streams))
    assert counts(agent, "critic", "non_finite")[1] == [0, 0, 1]
    assert not any(map(any, counts(agent, "actor", "non_finite"))), "its own loss was fine"


# ---- each condition ----


def update_of(network, **changes):
    """A critic's or actor's update without faults, and its value or temperature, then `changes`:
    name -> (place, value).
    """
    shape = len(SEEDS), TASKS
    values = {
        "losses": torch.ones(shape),
        "gradient_norm": torch.ones(len(SEEDS)),
        "gramian": torch.eye(TASKS).repeat(len(SEEDS), 1, 1),
        "converged": torch.ones(len(SEEDS), dtype=torch.bool),
        "value": torch.zeros(shape),
        "temperature": torch.ones(shape),
    }
    for name, (place, value) in changes.items():
        values[name][place] = value
    diagnostics = {name: values[name] for name in ("gramian", "converged")}
    update = NetworkUpdate(values["losses"], values["gradient_norm"], diagnostics)
    return update, values["value" if network == "critic" else "temperature"]


def check(guard, network, number=7, **changes):
    """What the guard skips in this update."""
    checks = {"critic": guard.check_critic, "actor": guard.check_actor}
    return checks[network](*update_of(network, **changes), torch.tensor(number))


BAD = {
    ("critic", "non_finite"): {"losses": ((1, 2), math.inf)},
    ("actor", "non_finite"): {"gramian": ((1, 2, 2), math.nan)},
    ("critic", "unsolved"): {"converged": (1, False)},
    ("actor", "unsolved"): {"converged": (1, False)},
    ("critic", "vanished_gradient"): {"gramian": ((1, 2, 2), 1e-13)},
    ("actor", "vanished_gradient"): {"gramian": ((1, 2, 2), 0.0)},
    ("critic", "exploding_value"): {"value": ((1, 2), -1.1e5)},
    ("actor", "dead_temperature"): {"temperature": ((1, 2), 9e-7)},
}


@pytest.mark.parametrize("response", ["count", "skip", "stop"])
@pytest.mark.parametrize("kind", CHECKS, ids="/".join)
def test_every_condition_is_detected_counted_and_responded_to(kind, response):
    if response not in RESPONSES[kind[1]]:
        return
    config = GuardConfig()
    setattr(config, kind[1], response)
    guard = Guard(config, len(SEEDS), TASKS, torch.device("cpu"))
    for network in CONDITIONS:
        assert not check(guard, network).any()
    assert not guard.counts.any() and (guard.first == -1).all()
    for number in (7, 8):
        skip = check(guard, kind[0], number, **BAD[kind])
        assert skip.tolist() == [False, response != "count", False]
    expected = torch.zeros_like(guard.counts)
    expected[(CHECKS.index(kind), 1) if kind[1] == "unsolved" else (CHECKS.index(kind), 1, 2)] = (
        1 if response == "stop" else 2
    )
    assert torch.equal(guard.counts, expected)
    assert torch.equal(guard.first, torch.where(expected > 0, 7, -1))
    assert guard.stopped.tolist() == [False, response == "stop", False]


def test_an_equation_with_non_finite_losses_does_not_count_as_unsolved():
    guard = Guard(GuardConfig(), len(SEEDS), TASKS, torch.device("cpu"))
    check(guard, "critic", losses=((1, 2), math.nan), converged=(1, False))
    assert guard.counts[CHECKS.index(("critic", "unsolved"))].sum() == 0


def test_tasks_get_equal_weights_where_the_equation_is_not_solved_if_asked_for():
    """One SGD step solves nothing: with `ls` the agent then trains as by linear scalarisation."""
    fallen, plain = (
        agent_of(GuardConfig(unsolved="ls"), solver="sgd", sgd_steps=1),
        agent_of(method="ls", reduction="mean"),
    )
    one, other = (learn(agent, SeedStreams(SEEDS), 3) for agent in (fallen, plain))
    assert (one["critic/weights"] == 1 / TASKS).all() and not one["critic/converged"].any()
    assert counts(fallen, "critic", "unsolved") == [[3] * TASKS] * len(SEEDS)
    for name in ("critic/gradient_norm", "actor/gradient_norm", "critic/loss"):
        torch.testing.assert_close(one[name], other[name])


def test_a_solved_equation_keeps_its_weights():
    one, other = agent_of(GuardConfig(unsolved="ls")), agent_of()
    for agent in (one, other):
        learn(agent, SeedStreams(SEEDS), 3)
    assert same(copied(one), copied(other))


def test_a_periodic_reset_does_not_restart_a_stopped_seed():
    agent, streams = agent_of(), SeedStreams(SEEDS)
    learn(agent, streams, 2)
    agent.update(*spoiled(streams))
    before = copied(agent)
    agent.reset(1)
    after = copied(agent)
    for n in range(len(SEEDS)):
        one, other = of_seed(before, n), of_seed(after, n)
        learned = [
            key for key in one if key.startswith(("actor/", "critics/", "targets/", "temperature/"))
        ]
        kept = [torch.equal(one[key], other[key]) for key in learned if "weight" in key]
        assert all(kept) if n == 1 else not any(kept)


@pytest.mark.parametrize("make", [agent_of, single_tasks], ids=["seeds", "single tasks"])
def test_a_policy_that_diverged_stops_alone_and_counts_once(make):
    agent, streams = make(), SeedStreams(SEEDS)
    diverged = torch.zeros(3, TASKS, dtype=torch.bool)
    diverged[1, 2] = True
    for _ in range(2):
        agent.stop(diverged)
        learn(agent, streams, 1)
    assert counts(agent, "actor", "non_finite") == diverged.int().tolist()
    expected = diverged if make is single_tasks else diverged.any(-1, keepdim=True)
    assert torch.equal(agent.faults().stopped, expected.expand(3, TASKS))


def test_counts_continue_after_a_checkpoint():
    agent, streams = agent_of(), SeedStreams(SEEDS)
    agent.update(*spoiled(streams))
    restored = agent_of(seeds=(7, 8, 9))
    restored.load_state(copied(agent))
    for one, other in zip(agent.faults(), restored.faults(), strict=True):
        assert torch.equal(one, other)
    assert restored.faults().stopped[1].all()


def test_the_default_response_is_the_first_choice():
    defaults = GuardConfig()
    assert all(
        getattr(defaults, condition) == allowed[0] for condition, allowed in RESPONSES.items()
    )
    assert {condition for _, condition in CHECKS} == set(RESPONSES)
    assert FairGrad().min_relative_norm == 1e-6, (
        "FairGrad excludes exactly the gradients that count as vanished"
    )


# ---- the pure function ----


def answered_one_by_one(evidence, counts, first, stopped, skips, stops, update):
    """What `respond` computes, by loops over conditions, seeds and tasks."""
    losses = evidence["losses"]
    gramian, converged = evidence.get("gramian"), evidence.get("converged")
    skip, now_stopped = stopped.clone(), stopped.clone()
    for s, k in itertools.product(range(len(losses)), range(losses.shape[1])):
        squares = None if gramian is None else gramian[s].diagonal()
        parts = [losses[s]] if squares is None else [losses[s], squares]
        finite = [all(math.isfinite(part[i]) for part in parts) for i in range(len(losses[s]))]
        whole = math.isfinite(evidence["norm"][s])
        vanished = squares is not None and bool(squares[k] <= 1e-12 * squares.amax())
        faults = (
            not finite[k] or (all(finite) and not whole),
            converged is not None and all(finite) and not converged[s],
            vanished,
            bool(evidence["unusual"][s, k]),
        )
        for c, fault in enumerate(faults):
            if fault and not stopped[s]:
                counts[c, s, k] += 1
                first[c, s, k] = update if first[c, s, k] < 0 else first[c, s, k]
                skip[s] |= skips[c, 0, 0]
                now_stopped[s] |= stops[c, 0, 0]
    return counts, first, now_stopped, skip


@pytest.mark.parametrize("optional", [(), ("gramian",), ("gramian", "converged")], ids=str)
def test_faults_are_those_of_a_look_at_every_task(optional):
    generator = torch.Generator().manual_seed(len(optional))

    def chosen(share, *shape):
        return torch.rand(shape, generator=generator) < share

    bad = torch.tensor([math.nan, math.inf, -math.inf, 1e-14])
    seeds, tasks, seen = 5, 3, torch.zeros(4, dtype=torch.bool)
    for number in range(60):
        evidence = {
            "losses": torch.randn(seeds, tasks, generator=generator),
            "norm": torch.rand(seeds, generator=generator),
            "unusual": chosen(0.1, seeds, tasks),
            "gramian": torch.rand(seeds, tasks, tasks, generator=generator) + torch.eye(tasks),
            "converged": ~chosen(0.2, seeds),
        }
        for name in ("losses", "norm", "gramian"):
            places = chosen(0.05, *evidence[name].shape)
            evidence[name][places] = bad[number % 4]
        for name in {"gramian", "converged"} - set(optional):
            del evidence[name]
        counts = torch.randint(0, 5, (4, seeds, tasks), generator=generator)
        first = torch.where(counts > 0, counts, -1)
        stopped, skips, stops = chosen(0.2, seeds), chosen(0.5, 4, 1, 1), chosen(0.3, 4, 1, 1)
        expected = answered_one_by_one(
            evidence, counts.clone(), first.clone(), stopped, skips, stops, number
        )
        found = respond(evidence, (counts, first), stopped, (skips, stops), torch.tensor(number))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
        seen |= (found[0] > counts).flatten(1).any(1)
    assert seen.tolist() == [True, "converged" in optional, "gramian" in optional, True]


def test_the_checks_of_a_guard_can_be_captured():
    captured = Guard(GuardConfig(), len(SEEDS), TASKS, torch.device("cpu"))
    captured._respond = CapturedFunction(respond, after=0)
    plain = Guard(GuardConfig(), len(SEEDS), TASKS, torch.device("cpu"))
    with torch.no_grad():
        for number, (kind, changes) in enumerate(BAD.items()):
            skips = [check(guard, kind[0], number, **changes) for guard in (captured, plain)]
            assert torch.equal(*skips)
    assert same(captured.state(), plain.state()) and plain.counts.any()
