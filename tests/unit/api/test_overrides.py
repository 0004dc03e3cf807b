"""Options in Python mean what the words of the command line mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mtrl_fairgrad.api.overrides import config_overrides, to_overrides
from mtrl_fairgrad.cli.hydra_main import compose_config
from mtrl_fairgrad.config.agent import AgentConfig
from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import Config, without_torch
from tests.support.errors import refused


def composed(words):
    return without_torch(compose_config(words), words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": 2, "steps": 1e6}, ["alpha=2", "steps=1000000.0"]),
        ({"deterministic": True, "threads": None}, ["deterministic=true", "threads=null"]),
        ({"seeds": range(2), "device": "cuda:1"}, ["seeds=[0,1]", "device='cuda:1'"]),
        ({"seeds": np.array([3]), "alpha": np.float64(0.5)}, ["seeds=[3]", "alpha=0.5"]),
        ({"seeds": torch.arange(2), "alpha": torch.tensor(2.0)}, ["seeds=[0,1]", "alpha=2.0"]),
        ({"env": {"name": "mt10", "copies": 8}}, ["env=mt10", "env.copies=8"]),
        ({"method": "pcgrad", "eval": {"every": 5}}, ["method=pcgrad", "eval.every=5"]),
        ({"env": {"task_options": [{"edge": 0.6}]}}, ["env.task_options=[{edge:0.6}]"]),
        ({"agent.width": 64}, ["agent.width=64"]),
        ({"run_dir": Path("runs/ü b")}, ["run_dir='runs/ü b'"]),
    ],
)
def test_keywords_become_words(options, words):
    assert to_overrides(options) == words


def test_a_dataclass_stands_for_its_group():
    words = to_overrides({"agent": AgentConfig(name="mhsac", width=7)})
    assert words[0] == "agent=mhsac" and "agent.width=7" in words


def test_a_value_that_no_option_takes_is_refused():
    value = object()
    with refused("alpha", value):
        to_overrides({"alpha": value})


@pytest.mark.parametrize(
    "words",
    [
        ["env=mt10_paper", "method=fairgrad", "alpha=2", "loss_alpha=0.5", "seeds=[4,5]"],
        ["preset=fast", "env.copies=16", "threads=3"],
        ["agent=stl", "run_dir='runs/ü b'"],
        [
            "env=gymnasium",
            "env.tasks=[a:A-v0,a:A-v0]",
            "env.task_options=[{edge:0.6},{edge:0.3}]",
            "method=cagrad",
            "agent=mtsac_te",
        ],
    ],
)
def test_a_configuration_survives_as_words(words):
    config = composed(words)
    assert composed(config_overrides(config)) == config


def test_the_default_configuration_needs_no_more_than_its_choices():
    assert config_overrides(Config()) == [
        "env=mt10",
        "agent=mtsac",
        "method=fairgrad",
        "convention=plain",
        "preset=none",
    ]


@pytest.mark.parametrize("word", ["--multirun", "--help", "hydra/launcher=slurm", "hydra.mode=x"])
def test_words_for_the_command_line_alone_are_refused(word):
    with refused(word.partition("=")[0]):
        compose_config([word])


def test_a_misspelt_option_is_answered_like_on_the_command_line():
    with refused("alhpa", "2"):
        compose_config(["alhpa=2"])
    with refused("seeds", "[0],[1]"):
        compose_config(["seeds=[0],[1]"])
    with refused("method", "fairgard"):
        compose_config(["method=fairgard"])


def test_composing_leaves_hydra_to_the_program():
    compose_config(["alpha=1"])
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert compose_config(["alpha=1"]).alpha == 1
        assert GlobalHydra.instance().hydra is outer
