"""The fast simulators beside the official ones, compared bit for bit."""

import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP

from mtrl_fairgrad.envs.metaworld import official_goals
from mtrl_fairgrad.envs.metaworld_fast import reset_cache
from mtrl_fairgrad.envs.metaworld_fast.environment import fast_environment

STATE = ("time", "qpos", "qvel", "qacc_warmstart", "mocap_pos", "mocap_quat", "ctrl", "efc_force")
POSES = ("xpos", "xquat", "xmat", "geom_xpos", "geom_xmat", "site_xmat", "cam_xpos", "light_xpos")
"""What is drawn. Without `site_xpos`: until the first step, push's mark of the goal officially
stands at the height at which the *last* episode left the object."""
PLAYED = (0, 1, 0, 1, 0)
"""Goals of the episodes; the fast environment has seen all but two of them before."""


def bits(value):
    """What must agree for two numbers or arrays to be the same; all NaN are alike."""
    array = np.array(value)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return type(value), array.dtype, array.shape, array.tobytes()


def attributes(environment):
    plain = (int, float, np.ndarray, np.generic, type(None))
    ours = ("_ctrl", "_mocap_pos", "_mocap_quat", "_hand", "_fingers")
    return {
        name: bits(v)
        for name, v in vars(environment).items()
        if isinstance(v, plain) and name not in ours
    }


def streams(environment):
    holders = (
        environment,
        environment.action_space,
        environment.observation_space,
        environment.goal_space,
    )
    return [str(each.np_random.bit_generator.state) for each in holders], np.random.get_state()[
        1
    ].tobytes()


def look(environment, names):
    return {name: bits(getattr(environment.data, name)) for name in names}


def make(task):
    """The official environment, the fast one, their goals."""
    pair = [kind() for kind in (ALL_V3_ENVIRONMENTS[task], fast_environment(task))]
    for each in pair:
        each.seed(5)
    return *pair, official_goals(pair[0], task, 3)


def answers(observation, reward, terminated, truncated, info):
    values = {
        "observation": observation,
        "reward": reward,
        "terminated": terminated,
        "truncated": truncated,
    }
    return {name: bits(value) for name, value in (values | info).items()}


def compare(pair, task, version, steps):
    """Play episodes of both side by side, by turns with random actions and with those of the
    scripted expert.
    """
    official, quick, goals = pair
    official.reward_function_version = quick.reward_function_version = version
    quick._resets = reset_cache.Resets(quick.model, quick.data)  # forgets
    generator, rewards = np.random.default_rng(0), set()
    for episode, goal in enumerate(PLAYED):
        for each in (official, quick):
            each.set_task(goals[goal])
        observation, mine = official.reset()[0], quick.reset()[0]
        assert bits(observation) == bits(mine)
        assert look(official, POSES) == look(quick, POSES)
        assert attributes(official) == attributes(quick)
        policy = ENV_POLICY_MAP[task]() if episode % 2 else None
        for _ in range(steps):
            action = policy.get_action(observation) if policy else generator.uniform(-1.2, 1.2, 4)
            action = (action + generator.normal(0, 0.05, 4)).astype(np.float32)
            expected = official.step(action)
            assert answers(*expected) == answers(*quick.step(action)), (task, version, episode)
            assert look(official, STATE) == look(quick, STATE), (task, version, episode)
            observation = expected[0]
            rewards.add(float(expected[1]))
        assert attributes(official) == attributes(quick)
        for geom in range(official.model.ngeom):
            assert bits(official.touching_object(geom)) == bits(quick.touching_object(geom))
    assert look(official, POSES) == look(quick, POSES) and streams(official) == streams(quick)
    for name in (
        "body_pos",
        "body_quat",
        "site_pos",
        "site_quat",
        "geom_pos",
        "geom_size",
        "eq_data",
        "qpos0",
    ):
        assert bits(getattr(official.model, name)) == bits(getattr(quick.model, name)), name
    assert len(rewards) > steps and len(quick._resets._entries) == 2
