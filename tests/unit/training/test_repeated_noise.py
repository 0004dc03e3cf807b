"""Actions of a learner whose simulators keep their exploration noise: halves, seeds, resume."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.agents.exploration import NewNoise
from tests.support.small_learner import ACTION, OBSERVATION, SMALL, TASKS, learner_of

REPEATING = [*SMALL, "agent.noise_repeat=4", "env.copies=4"]


def acted(learner, steps, seeds):
    """Actions `[T, S, E', K, A]` of the two halves by turns, at observations that do not change."""
    observations = np.ones((seeds * 2 * TASKS, OBSERVATION), np.float32)
    found = [learner.act(observations, 100, step % 2) for step in range(steps)]
    return torch.from_numpy(np.stack(found)).view(steps, seeds, 2, TASKS, ACTION)


@pytest.mark.parametrize("agent", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_each_simulator_of_a_half_repeats_its_own_action(agent):
    actions = acted(learner_of(*REPEATING, f"agent={agent}", "seeds=[0,1]"), 40, 2)
    for half in (actions[::2], actions[1::2]):
        kept = (half[1:] == half[:-1]).all(-1)
        assert 0.2 < kept.float().mean() < 0.6, "on average 1.46 steps"
        assert kept.flatten(1).any(0).all() and not kept.flatten(1).all(-1).any()
    assert not (actions[1:] == actions[:-1]).all(-1).any(), "the halves have noise of their own"


def test_a_seed_acts_alone_as_beside_others():
    alone = acted(learner_of(*REPEATING, "seeds=[1]"), 10, 1)
    beside = acted(learner_of(*REPEATING, "seeds=[0,1]"), 10, 2)
    torch.testing.assert_close(alone[:, 0], beside[:, 1])


def test_a_restored_learner_keeps_the_noise_that_is_under_way():
    whole, restored = (learner_of(*REPEATING) for _ in range(2))
    for _ in range(4):
        state = {
            group: {name: value.clone() for name, value in entries.items()}
            for group, entries in whole.state().items()
        }
        restored.load_state(state)
        expected = acted(whole, 6, 1)
        assert torch.equal(acted(restored, 6, 1), expected)


def test_without_repetition_a_checkpoint_has_no_noise():
    learner = learner_of(*SMALL)
    assert isinstance(learner.exploration, NewNoise) and "exploration" not in learner.state()
