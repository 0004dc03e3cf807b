"""Steps of vector environments as plain arrays, and their comparison."""

import numpy as np


def flatten(step):
    """All arrays of a step's answer, by name."""
    observations, rewards, terminated, truncated, infos = step
    flat = {
        "observations": observations,
        "rewards": rewards,
        "terminated": terminated,
        "truncated": truncated,
    }
    for name, value in infos.items():
        flat |= (
            {f"{name}.{key}": each for key, each in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def course(envs, actions):
    return [flatten(envs.step(each)) for each in actions]


def assert_same(mine, other):
    assert len(mine) == len(other)
    for one, two in zip(mine, other, strict=True):
        assert one.keys() == two.keys()
        for name in one:
            # Statistics of an episode count where one ended.
            rows = one["_episode"] if name.startswith("episode.") else slice(None)
            assert np.array_equal(one[name][rows], two[name][rows]), name
