"""The learner of a run: update schedule, resets, stored rewards, exact resume."""

import pytest
import torch

from tests.support.small_learner import SMALL, TASKS, flat, go, learner_of

ALL = [
    *SMALL,
    "agent.critic_width=6",
    "agent.critic_layer_norm=true",
    "agent.initialization=xavier",
    "agent.log_std=tanh",
    "agent.reward_normalization=running_std",
    "agent.reset_every=7",
    "agent.warmup_updates=4",
    "agent.actor_every=2",
    "agent.optimizer=adamw",
    "agent.weight_decay=0.1",
    "agent.learning_rate_end=1e-4",
    "agent.exploration_rate=0.3",
]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [0] * 5 + [1] * 5),
        (["agent.updates_per_step=0.5"], [0] * 5 + [0, 1, 0, 1, 0]),
        (["agent.updates_per_step=3"], [0] * 5 + [3] * 5),
        (["agent.warmup_updates=7"], [0] * 5 + [7, 1, 1, 1, 1]),
        (["agent.warmup_updates=2", "agent.updates_per_step=3"], [0] * 5 + [3] * 5),
    ],
)
def test_updates_begin_after_the_warm_up_with_as_many_as_were_asked_for(words, expected):
    learner = learner_of(*SMALL, *words)
    assert [learner.updates_due(step) for step in range(10)] == expected


def test_a_reset_renews_everything_but_replay_buffer_and_streams(monkeypatch):
    learner = learner_of(*ALL)
    numbers, reset = [], learner.agent.reset

    def noted(number):
        numbers.append((number, learner.updates))
        reset(number)

    monkeypatch.setattr(learner.agent, "reset", noted)
    go(learner, 0, 24, seeds=(0,))
    assert learner.updates == learner.agent.updates == 22
    assert numbers == [(1, 7), (2, 14), (3, 21)]
    assert learner.agent.critics.adam.count == 1
    never = learner_of(*ALL, "agent.reset_every=null")
    go(never, 0, 24, seeds=(0,))
    for name, value in flat(never).items():
        if name.startswith(("replay/", "streams/", "rewards/")):
            assert torch.equal(value, flat(learner)[name]), name


def test_rewards_are_scaled_before_they_are_stored():
    plain, scaled = learner_of(*SMALL), learner_of(*SMALL, "agent.reward_normalization=running_std")
    for learner in (plain, scaled):
        go(learner, 0, 4, seeds=(0,))
    stored, divided = (learner.replay.rows[:4, :, :, -2] for learner in (plain, scaled))
    assert (divided[:, 0, 1].abs() < stored[:, 0, 1].abs()).all() and torch.equal(
        divided.sign(), stored.sign()
    )
    assert torch.equal(plain.replay.rows[:4, :, :, :-2], scaled.replay.rows[:4, :, :, :-2])
    assert "rewards" not in plain.state()
    go(scaled, 4, 7, seeds=(0,))
    assert scaled.report()["reward_deviation"].shape == (1, TASKS) and scaled.report() == {}


@pytest.mark.parametrize("agent", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_a_restored_learner_goes_on_bit_for_bit(agent):
    words, saved = [*ALL, f"agent={agent}", "seeds=[0,1]"], {}
    whole, restored = learner_of(*words), learner_of(*words)
    for step in range(14):
        state = {
            key: {name: v.clone() for name, v in group.items()}
            for key, group in whole.state().items()
        }
        saved[step] = state, whole.replay.rows.clone(), whole.replay.added
        go(whole, step, step + 1)
    expected = flat(whole)
    for step in (12, 3, 6, 8):  # late, warming up, learning, right after the first reset
        state, rows, restored.replay.added = saved[step]
        restored.replay.rows.copy_(rows)
        restored.load_state(state)
        go(restored, step, 14)
        resumed = flat(restored)
        assert restored.updates == 12
        assert [
            name for name, value in expected.items() if not torch.equal(value, resumed[name])
        ] == []


@pytest.mark.parametrize(
    ("words", "weighted"),
    [
        (("method=ls",), True),
        (("method=fairgrad",), True),
        (("method=fairgrad", "method.gramian=half_batches"), True),
        (("agent=stl",), True),
        (("method=moco",), False),  # weights averages of gradients
    ],
)
def test_the_log_tells_signal_and_worsened_tasks_of_every_method(words, weighted):
    learner = learner_of(*SMALL, *words)
    go(learner, 0, 12, seeds=(0,))
    metrics = learner.report()
    for network in ("critic", "actor"):
        assert metrics[f"{network}/gramian"].shape == (1, TASKS, TASKS)
        assert metrics[f"{network}/signal"].shape == (1, TASKS)
        assert (f"{network}/worsened" in metrics) == weighted
        if weighted:
            assert set(metrics[f"{network}/worsened"].flatten().tolist()) <= {0.0, 1.0}
