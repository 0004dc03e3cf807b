"""Which option someone means."""

import pytest

from mtrl_fairgrad.cli.advice import dotted_keys, similar_option
from mtrl_fairgrad.config.schema import Config, to_dict
from mtrl_fairgrad.supervised.config import SupervisedConfig

RL = sorted(dotted_keys(to_dict(Config(method={}))))
SUPERVISED = sorted(dotted_keys(to_dict(SupervisedConfig(benchmark={}, method={}))))


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("lr", "agent.learning_rate"),
        ("agent.hidden_dim", "agent.width"),
        ("tau", "agent.polyak"),
        ("batch", "agent.batch_size"),
        ("buffer_size", "agent.buffer_size"),
        ("total_timesteps", "steps"),
        ("num_steps", "steps"),
        ("eval_every", "eval.every"),
        ("every", "eval.every"),
        ("eval.freq", "eval.every"),
        ("save_every", "eval.every"),
        ("checkpoint.interval", "eval.every"),
        ("log.every", "log_every"),
        ("eval.num_episodes", "eval.episodes"),
        ("max_episode_steps", "env.horizon"),
        ("eval.horizon", "env.horizon"),
        ("eval.num_workers", "eval.workers"),
        ("agnt.width", "agent.width"),
        ("agent.widht", "agent.width"),
        ("LR", "agent.learning_rate"),
        ("nothing_like_it", None),
    ],
)
def test_other_names_and_misspellings_lead_to_the_option(word, option):
    assert similar_option(word, RL) == option


@pytest.mark.parametrize(
    ("word", "option"),
    [
        ("lr", "learning_rate"),
        ("epohcs", "epochs"),
        ("data_dir", "data.root"),
        ("dataset", "benchmark"),
        ("alphas", "benchmark.alphas"),
    ],
)
def test_a_supervised_run_has_its_own_options(word, option):
    assert similar_option(word, SUPERVISED) == option


def test_a_word_is_never_proposed_for_itself():
    for name in RL:
        assert similar_option(name, RL) != name
