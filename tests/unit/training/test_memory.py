"""A run that does not fit into the free memory is refused before anything starts."""

import pytest
import torch

from mtrl_fairgrad import train
from mtrl_fairgrad.config.env import task_names
from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.training import memory
from mtrl_fairgrad.training.factory import make_suite
from mtrl_fairgrad.training.memory import NETWORKS, REPLAY, SIMULATORS, check_memory, estimate
from tests.support.errors import refused
from tests.support.tiny_runs import POINT_MASS, composed

CPU, MIB, GIB = torch.device("cpu"), 2**20, 2**30
TEN = MetaworldSuite(tasks=tuple(task_names(composed().env)))


def configured(*words):
    config = composed("env.workers=1", "eval.workers=2", *words)
    config.env.tasks = list(task_names(config.env))
    return config


def needs(*words, device=CPU):
    config = configured(*words)
    return estimate(config, make_suite(config, tuple(config.env.tasks)), device)


@pytest.fixture
def free(monkeypatch):
    """Set how many bytes are free."""
    return lambda size: monkeypatch.setattr(memory, "free_memory", lambda: size)


def test_the_replay_buffer_is_counted_with_all_seeds_and_tasks():
    # 2·49 observations, 4 actions, reward and end of the episode, of 4 bytes each.
    assert needs("agent.buffer_size=1000").host[REPLAY] == 1000 * 10 * (2 * 49 + 4 + 2) * 4
    assert needs("seeds=[0,1,2]").host[REPLAY] == 3 * needs().host[REPLAY]
    several = needs("agent.buffer_size=1000", "agent.n_step=3").host[REPLAY]
    assert several == 1000 * 10 * (2 * 49 + 4 + 3) * 4, "beginnings of episodes"


def test_simulators_of_training_and_evaluation_and_their_processes_are_counted():
    for seeds, count in (("[0]", 10), ("[0,1,2]", 30)):
        expected = 2 * count * memory.SIMULATOR["metaworld"] + 3 * memory.WORKER["metaworld"]
        assert needs(f"seeds={seeds}").host[SIMULATORS] == expected
    assert memory.SIMULATOR["metaworld"] > 21 * MIB


def test_copies_are_simulators_of_training_alone():
    few, many = (needs(f"env.copies={copies}").host for copies in (1, 8))
    assert many[SIMULATORS] - few[SIMULATORS] == 7 * 10 * memory.SIMULATOR["metaworld"]
    assert many[REPLAY] == few[REPLAY]


def test_replay_buffer_and_simulators_count_together(free):
    """22 GiB where 20 are free, of which neither part alone is too much."""
    config = configured("env.copies=40", "agent.buffer_size=3200000")
    parts = estimate(config, TEN, CPU).host
    assert 22 * GIB < sum(parts.values()) < 23 * GIB and max(parts.values()) < 13 * GIB
    free(20 * GIB)
    with refused("agent.buffer_size", 3_200_000):
        check_memory(config, CPU)
    free(23 * GIB)
    check_memory(config, CPU)
    free(3 * GIB)
    with refused("env.copies", 400):
        check_memory(configured("env.copies=400", "agent.buffer_size=1000"), CPU)


def test_networks_are_counted_with_moments_targets_jacobian_and_the_methods_state():
    # Parameters of one seed with 49 observations, a width of 100 and two hidden layers.
    words = ["agent.width=100", "agent.depth=2", "agent.batch_size=1"]
    actor = 49 * 100 + 100 + 100 * 100 + 100 + 100 * 8 + 8
    critics = 2 * (53 * 100 + 100 + 100 * 100 + 100 + 100 + 1)
    assert (actor, critics) == (15_908, 31_202)
    batch = memory.ACTIVATIONS * 10 * (2 * 300 + 2)
    checkpoint = 3 * actor + 4 * critics
    static = 7 * actor + 6 * critics
    found = {name: needs(f"method={name}", *words).host[NETWORKS] / 4 for name in METHODS}
    assert found["ls"] == found["fairgrad"] == max(static + 10 * critics + batch, 2 * checkpoint)
    for method in (["method=ls"], ["method=fairgrad", "method.gramian=half_batches"]):
        halves = needs(*method, *words, "agent.batch_size=2")
        assert halves.host[NETWORKS] / 4 == static + 20 * critics + 2 * batch, "for the log"
    # Two copies while it aggregates, and both networks' averages as state with λ in float64.
    state = 10 * (actor + critics)
    assert found["moco"] == pytest.approx(static + 20 * critics + batch + state, abs=200)
    assert needs("method=ls", "seeds=[0,1]", *words).host[NETWORKS] == 8 * found["ls"]


METHODS = ("ls", "fairgrad", "moco")


def test_residual_blocks_and_atoms_are_counted():
    words = ["method=ls", "agent.width=100", "agent.depth=2"]
    small, large = (
        [needs(f"agent.batch_size={size}", *words, *more).host[NETWORKS] for size in (1000, 2000)]
        for more in ([], ["agent.network=bronet", "agent.critic=categorical", "agent.atoms=51"])
    )
    of_batch = 4 * memory.ACTIVATIONS * 1000 * 10
    assert small[1] - small[0] == of_batch * (2 * 300 + 2)
    assert large[1] - large[0] == of_batch * (5 * 300 + 102)  # two layers in each block
    assert large[0] > small[0]


def test_a_gpu_projects_distributions_by_pairs_of_atoms():
    words = ["agent.critic=categorical", "agent.batch_size=100", "seeds=[0,1]", "agent.atoms=51"]
    host, device = needs(*words), needs(*words, device=torch.device("cuda:0"))
    pairs = 2 * 10 * 100 * 51**2 * 4
    assert device.device[NETWORKS] == host.host[NETWORKS] + 2 * pairs


@pytest.mark.parametrize("agent", ["mtsac", "mhsac", "mtsac_te", "stl"])
def test_every_agent_is_counted_with_its_own_parameters(agent):
    from mtrl_fairgrad.training.factory import make_agent

    config = configured(f"agent={agent}", "method=ls" if agent != "stl" else "method=stl")
    suite = TEN
    state = make_agent(config, 10, suite.observation_size, suite.action_size, CPU).state()
    before = sum(value.nbytes for value in state.values())  # without moments: 1 actor, 2 critics
    found = estimate(config, suite, CPU).host[NETWORKS]
    assert 3 * before < found < 25 * before


def test_nothing_is_allocated_to_find_out():
    from mtrl_fairgrad.agents import networks

    with torch.device("meta"):
        actor = networks.init_actor(composed().agent, 49, 4, 10, None)
    assert all(value.is_meta for value in actor.shared.values())
    assert needs("agent.width=30000").host[NETWORKS] > 100 * GIB


def test_a_replay_buffer_beyond_free_memory_is_refused_with_the_size_that_fits(free):
    free(20 * GIB)
    config = configured("agent.buffer_size=5700000")
    assert 22 * GIB < estimate(config, TEN, CPU).host[REPLAY] < 23 * GIB
    with refused("agent.buffer_size", 5_700_000):
        check_memory(config, CPU)
    free(24 * GIB)
    check_memory(config, CPU)


def test_the_advice_is_followed_by_success(free):
    free(20 * GIB)
    for steps in (2_000_000, 50_000_000):
        config = configured("agent.buffer_size=57000000", f"steps={steps}")
        with pytest.raises(memory.ConfigError) as caught:
            check_memory(config, CPU)
        advised = int(str(caught.value).partition("use agent.buffer_size=")[2].split()[0])
        assert advised <= steps and advised > 1_900_000
        config.agent.buffer_size = advised
        check_memory(config, CPU)


def test_the_advice_for_a_short_run_is_a_buffer_of_one_batch(free):
    free(20 * GIB)
    config = configured("agent.buffer_size=57000000", "steps=1", "agent.batch_size=64")
    with pytest.raises(memory.ConfigError, match=r"use agent\.buffer_size=64 or less"):
        check_memory(config, CPU)
    config.agent.buffer_size = 64
    check_memory(config, CPU)


def test_nothing_is_advised_that_cannot_be_done(free):
    words = ["env=mt1", "env.task=reach-v3", "method=ls", "agent.buffer_size=1000"]
    free(100 * MIB)
    with pytest.raises(memory.ConfigError) as caught:
        check_memory(configured(*words, "eval.workers=1"), CPU)
    for impossible in ("fewer", "eval.workers=1"):
        assert impossible not in str(caught.value)
    assert "1 seed × 1 task need" in str(caught.value)
    with pytest.raises(memory.ConfigError, match=r"use eval\.workers=1, or fewer tasks"):
        check_memory(configured("agent.buffer_size=1000"), CPU)


@pytest.mark.parametrize(
    ("words", "size", "key", "value"),
    [
        (["agent.buffer_size=1000", "seeds=[0,1,2,3]"], 2 * GIB, "seeds", [0, 1, 2, 3]),
        (["agent.buffer_size=1000", "agent.width=2000"], GIB, "agent.width", 2000),
        (["agent.width=100000000"], 20 * GIB, "agent.width", 100_000_000),
    ],
)
def test_the_largest_part_is_named(words, size, key, value, free):
    free(size)
    with refused(key, value):
        check_memory(configured(*words), CPU)


def test_parts_that_fit_alone_are_added_up(free):
    config = configured("agent.buffer_size=400000", "seeds=[0,1]")
    parts = estimate(config, TEN, CPU).host
    free(max(parts.values()) + MIB)
    with refused("agent.buffer_size", 400_000):
        check_memory(config, CPU)
    free(sum(parts.values()))
    check_memory(config, CPU)


def test_on_a_gpu_the_learner_is_counted_there_and_the_simulators_here(free, monkeypatch):
    device = torch.device("cuda", 0)
    parts = needs("agent.buffer_size=400000", device=device)
    assert parts.device.keys() == {REPLAY, NETWORKS} and parts.host.keys() == {SIMULATORS, NETWORKS}
    config = configured("agent.buffer_size=400000")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (GIB, 80 * GIB))
    free(20 * GIB)
    with refused("agent.buffer_size", 400_000):
        check_memory(config, device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 * GIB, 80 * GIB))
    check_memory(config, device)
    free(100 * MIB)
    with refused("seeds", [0]):
        check_memory(config, device)


def test_an_unknown_amount_of_free_memory_refuses_nothing(free):
    free(None)
    check_memory(configured("agent.buffer_size=57000000"), CPU)


def test_the_command_refuses_before_it_makes_a_folder(free, tmp_path, capsys):
    free(50 * MIB)
    assert train.main([*POINT_MASS, "agent.buffer_size=2000000", f"run_dir={tmp_path / 'r'}"]) == 2
    said = capsys.readouterr().err
    assert "agent.buffer_size=2000000 needs too much memory" in said and said.count("\n") == 1
    assert not (tmp_path / "r").exists()
