"""Steps of vector environments as plain arrays, and their comparison."""

import json
from base64 import b64encode

import numpy as np

from mtrl_fairgrad.envs.saved_state import from_arrays, to_arrays


def reread(state):
    """A state of environments as it comes back from a checkpoint."""
    plain, arrays = to_arrays(state)
    return from_arrays(json.loads(json.dumps(plain)), arrays)


def as_of_older_version(state):
    """A state of environments as an older version's checkpoint holds it: JSON alone."""

    def text(value):
        if isinstance(value, dict):
            return {key: text(each) for key, each in value.items()}
        if isinstance(value, list):
            return [text(each) for each in value]
        return b64encode(value).decode() if isinstance(value, bytes) else value

    return from_arrays(json.loads(json.dumps(text(state))), {})


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
