"""Actions of a learner whose simulators explore: halves, warm-up, seeds, resume."""

import numpy as np
import pytest
import torch

from tests.support.small_learner import ACTION, OBSERVATION, SMALL, TASKS, learner_of

EXPLORING = [*SMALL, "agent.exploration_rate=0.3", "env.copies=4"]


def acted(learner, steps, seeds, env_steps=100):
    """Actions `[T, S, E', K, A]` of the two halves by turns, at observations that do not change."""
    observations = np.ones((seeds * 2 * TASKS, OBSERVATION), np.float32)
    found = [learner.act(observations, env_steps, step % 2) for step in range(steps)]
    return torch.from_numpy(np.stack(found)).view(steps, seeds, 2, TASKS, ACTION)


@pytest.mark.parametrize("agent", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_simulators_of_the_second_half_repeat_random_actions(agent):
    words = [f"agent={agent}", "seeds=[0,1]"]
    actions = acted(learner_of(*EXPLORING, *words), 60, 2)
    without = acted(learner_of(*EXPLORING, *words, "agent.exploration_rate=0"), 60, 2)
    assert torch.equal(actions[::2], without[::2])
    same = (actions[1::2] == without[1::2]).all(-1)
    repeated = (actions[3::2] == actions[1:-2:2]).all(-1)
    assert 0.1 < same.float().mean() < 0.6
    assert not (repeated & same[1:]).any() and repeated.flatten(1).any(0).all()


def test_exploration_begins_after_the_warm_up():
    learner = learner_of(*EXPLORING)
    acted(learner, 40, 1, env_steps=0)
    assert not learner.exploration.remaining.any()


def test_a_seed_explores_alone_as_beside_others():
    alone = acted(learner_of(*EXPLORING, "seeds=[1]"), 20, 1)
    beside = acted(learner_of(*EXPLORING, "seeds=[0,1]"), 20, 2)
    torch.testing.assert_close(alone[:, 0], beside[:, 1])


def test_a_restored_learner_goes_on_with_the_action_under_way():
    whole, restored = (learner_of(*EXPLORING) for _ in range(2))
    for _ in range(4):
        restored.load_state(
            {
                group: {name: value.clone() for name, value in entries.items()}
                for group, entries in whole.state().items()
            }
        )
        assert torch.equal(acted(restored, 6, 1), acted(whole, 6, 1))


def test_without_exploration_a_checkpoint_holds_nothing_of_it():
    assert "exploration" not in learner_of(*SMALL).state()
