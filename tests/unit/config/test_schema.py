"""The YAML files say what the dataclasses say, and mistakes end in one sentence."""

import json
import math
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from mtrl_fairgrad.config.agent import ARCHITECTURES, AgentConfig
from mtrl_fairgrad.config.convention import ConventionConfig
from mtrl_fairgrad.config.env import EnvConfig, task_names
from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.config.schema import (
    Config,
    ConfigError,
    changed_keys,
    from_hydra,
    is_given,
    keep_stored_options,
    to_dict,
)
from mtrl_fairgrad.gradients.conventions import CONVENTIONS, PLAIN, Convention
from mtrl_fairgrad.gradients.official import OFFICIAL
from mtrl_fairgrad.utils.validation import MAX_NAME
from mtrl_fairgrad.weighting import method_names, method_options
from tests.support.errors import refused
from tests.support.tiny_runs import POINT_MASS, composed

CONFIGS = Path(config_dir())


DEEP = 29 * "[" + 29 * "]"
LISTS = json.loads(DEEP)


def test_the_yaml_files_compose_to_the_python_defaults():
    assert changed_keys(to_dict(Config()), to_dict(composed())) == []


GROUPS = [
    path
    for path in sorted(CONFIGS.glob("*/*.yaml"))
    if path.parent.name not in ("benchmark", "preset_method", "preset_env")
    and path.stem != OFFICIAL
]


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_option_of_every_group_composes(path):
    needs_task = ["env.task=reach-v3"] if path.stem == "mt1" else []
    config = composed(f"{path.parent.name}={path.stem}", *needs_task)
    assert (
        config.preset if path.parent.name == "preset" else getattr(config, path.parent.name)
    ) is not None


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_a_yaml_with_all_its_options(name):
    written = yaml.safe_load((CONFIGS / "method" / f"{name}.yaml").read_text())
    assert written.pop("name") == name
    assert list(written) == list(method_options(name))


YAML_DEFAULTS = {"ls": {"reduction": "mean"}}
"""Reinforcement learning minimises the mean of the losses, as the library's users do their sum."""


@pytest.mark.parametrize("name", method_names())
def test_a_methods_yaml_holds_the_defaults_of_its_constructor(name):
    written = yaml.safe_load((CONFIGS / "method" / f"{name}.yaml").read_text())
    assert written == {"name": name, **method_options(name), **YAML_DEFAULTS.get(name, {})}


@pytest.mark.exhaustive
def test_table4_asks_for_the_papers_solver_and_nothing_else_of_other_methods():
    assert composed().method["solver"] == "newton"
    assert composed("preset=table4").method == {
        "name": "fairgrad",
        **method_options("fairgrad"),
        "solver": "sgd",
    }
    assert composed("preset=table4", "method.solver=newton").method["solver"] == "newton"
    for name in set(method_names()) - {"fairgrad", "stl"}:
        with_preset = composed("preset=table4", f"method={name}")
        assert with_preset.method == composed(f"method={name}").method


@pytest.mark.parametrize("preset", ["cpu", "fast", "mt10_plus"])
def test_the_recipe_sets_fairness_and_length_of_fairgrad_and_nothing_of_other_methods(preset):
    own = {"alpha": 1.0, "length": "ls"}
    assert composed(f"preset={preset}").method == {**composed().method, **own}
    assert composed(f"preset={preset}", "alpha=2").method["alpha"] == 2
    assert composed(f"preset={preset}", "method=cagrad").method == composed("method=cagrad").method


def test_a_resumed_run_keeps_the_options_that_no_override_sets():
    stored = to_dict(composed("method.solver=sgd", "alpha=1"))
    config = composed()
    keep_stored_options(config, stored, [])
    assert (config.method["solver"], config.method["alpha"]) == ("sgd", 1.0)
    config = composed("method.solver=least_squares", "alpha=3")
    keep_stored_options(config, stored, ["method.solver=least_squares", "alpha=3"])
    assert (config.method["solver"], config.method["alpha"]) == ("least_squares", 3.0)
    config = composed("method=ls")
    keep_stored_options(config, stored, ["method=ls"])
    assert config.method == composed("method=ls").method


def test_a_run_older_than_the_sgd_precision_keeps_float64():
    stored = to_dict(composed("method.solver=sgd"))
    assert stored["method"].pop("sgd_precision") == "float32"
    config = composed("method.solver=sgd")
    keep_stored_options(config, stored, ["method.solver=sgd"])
    assert config.method["sgd_precision"] == "float64"
    config = composed("method.sgd_precision=float32")
    keep_stored_options(config, stored, ["method.sgd_precision=float32"])
    assert config.method["sgd_precision"] == "float32"


def test_alpha_at_the_top_belongs_to_fairgrad():
    assert composed("alpha=1").method["alpha"] == 1
    assert composed("method.alpha=3").method["alpha"] == 3
    assert composed("alpha=3", "method.alpha=3").method["alpha"] == 3
    with refused("alpha", 3.0):
        composed("alpha=3", "method.alpha=2.0")


def test_alpha_for_a_method_without_one_names_those_that_have_one():
    owners = [f"method={name}" for name in method_names() if "alpha" in method_options(name)]
    assert "method=fairgrad" in owners
    with pytest.raises(ConfigError, match=f"drop it, or choose {' or '.join(owners)}\\.$"):
        composed("method=ls", "alpha=2")


def test_the_yaml_conventions_are_the_presets():
    written = {
        path.stem: yaml.safe_load(path.read_text())
        for path in (CONFIGS / "convention").glob("*.yaml")
    }
    assert {stem: entry.pop("name") for stem, entry in written.items()} == {
        stem: stem for stem in (*CONVENTIONS, OFFICIAL)
    }
    assert Convention(**written.pop(OFFICIAL)) == PLAIN  # looked up for each method
    assert {stem: Convention(**entry) for stem, entry in written.items()} == CONVENTIONS
    assert composed().convention == ConventionConfig(
        name="plain", own="plain", scale="none", max_norm=None
    )


def test_half_batches_need_an_even_batch():
    words = ["method.gramian=half_batches", "agent.batch_size=5"]
    assert composed(words[0], "agent.batch_size=6").method["gramian"] == "half_batches"
    for more in ([], ["loss_alpha=0.5"]):
        with refused("agent.batch_size", 5):
            composed(*words, *more)


def test_a_convention_of_ones_own_has_a_name_of_its_own():
    mine = composed(
        "convention=libmtl", "convention.scale=tasks", "convention.name=mine"
    ).convention
    assert (mine.name, mine.own, mine.scale) == ("mine", "weighted", "tasks")
    with refused("convention.name", "libmtl"):
        composed("convention=libmtl", "convention.scale=tasks")


@pytest.mark.skipif("stl" not in method_names(), reason="there is no stl")
def test_single_task_learning_takes_no_task_and_no_fairness_between_tasks():
    assert composed("method=stl").method["name"] == "stl"
    with refused("method.task", 1):
        composed("method=stl", "method.task=1")
    with refused("loss_alpha", 0.5):
        composed("method=stl", "loss_alpha=0.5")


@pytest.mark.parametrize("words", [["agent=stl"], ["method=stl"], ["agent=stl", "method=stl"]])
def test_single_task_agents_and_their_method_are_one_choice(words):
    config = composed(*words)
    assert (config.agent.name, config.method) == ("stl", {"name": "stl", **method_options("stl")})
    assert (
        changed_keys(to_dict(config), to_dict(from_hydra(OmegaConf.create(to_dict(config))))) == []
    )


@pytest.mark.parametrize("name", ["mtsac", "mtsac_te", "mhsac", "stl"])
def test_agents_differ_in_nothing_but_their_networks(name):
    config = composed(f"agent={name}", "method=stl" if name == "stl" else "method=ls")
    assert config.agent == AgentConfig(name=name)


def test_every_agent_is_an_architecture_and_a_file():
    files = {path.stem for path in (CONFIGS / "agent").glob("*.yaml")}
    assert files == set(ARCHITECTURES)


def test_a_preset_changes_defaults_and_the_command_line_wins():
    quick = composed("preset=quick")
    assert quick.preset == "quick" and quick.steps == 5000 and quick.agent.width == 128
    assert composed("preset=quick", "steps=7", "agent.width=8").agent.width == 8
    assert composed("preset=quick", "steps=7").steps == 7


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["method=ls", "alpha=2"], "alpha", 2.0),
        (["alpha=-1"], "method.alpha", -1.0),
        (["alpha=nan"], "alpha", math.nan),
        (["loss_alpha=1"], "loss_alpha", 1.0),
        (["loss_alpha=nan"], "loss_alpha", math.nan),
        (["convention.own=mine"], "convention.own", "mine"),
        (["convention=official"], "convention", "official"),
        (["convention.max_norm=-1"], "convention.max_norm", -1.0),
        (["method.solver=simplex"], "method.solver", "simplex"),
        (["method.sgd_steps=0"], "method.sgd_steps", 0),
        (["agent.batch_size=200", "agent.buffer_size=100"], "agent.batch_size", 200),
        (["agent.width=0"], "agent.width", 0),
        (["agent.critic_width=0"], "agent.critic_width", 0),
        (["agent.initialization=orthogonal"], "agent.initialization", "orthogonal"),
        (["agent.log_std=tan"], "agent.log_std", "tan"),
        (["agent.log_std_min=2"], "agent.log_std_min", 2.0),
        (["agent.log_std_max=-20"], "agent.log_std_min", -20.0),
        (["agent.log_std_max=11"], "agent.log_std_max", 11.0),
        (["agent.critic=quantile"], "agent.critic", "quantile"),
        (["agent.atoms=1"], "agent.atoms", 1),
        (["agent.v_max=0"], "agent.v_max", 0.0),
        (["agent.network=simba"], "agent.network", "simba"),
        (["agent.target=max"], "agent.target", "max"),
        (["agent.temperature=one"], "agent.temperature", "one"),
        (["agent.reward_normalization=std"], "agent.reward_normalization", "std"),
        (["agent.warmup_updates=-1"], "agent.warmup_updates", -1),
        (["agent.reset_every=0"], "agent.reset_every", 0),
        (["agent=stl", "method=pcgrad"], "method", "pcgrad"),
        (["agent=stl", "method=fairgrad"], "method", "fairgrad"),
        (["agent=mhsac", "method=stl"], "agent", "mhsac"),
        (["agent=stl", "loss_alpha=0.5"], "loss_alpha", 0.5),
        (["agent=stl", "agent.temperature=shared"], "agent.temperature", "shared"),
        (["agent=stl", "alpha=2"], "alpha", 2.0),
        (["agent.learning_rate=0"], "agent.learning_rate", 0.0),
        (["agent.learning_rate=inf"], "agent.learning_rate", math.inf),
        (["agent.discount=1.5"], "agent.discount", 1.5),
        (["agent.polyak=nan"], "agent.polyak", math.nan),
        (["agent.initial_temperature=-1"], "agent.initial_temperature", -1.0),
        (["agent.target_entropy=inf"], "agent.target_entropy", math.inf),
        (["agent.max_gradient_norm=0"], "agent.max_gradient_norm", 0.0),
        (["env.horizon=501"], "env.horizon", 501),
        (["env.reward_version=v3"], "env.reward_version", "v3"),
        (["eval.episodes=51"], "eval.episodes", 51),
        (["eval.every=0"], "eval.every", 0),
        (["env.workers=-1"], "env.workers", -1),
        (["steps=0"], "steps", 0),
        (["steps=9000000000000000000"], "steps", 9 * 10**18),
        (["seeds=[]"], "seeds", []),
        (["seeds=[1,2,1]"], "seeds", [1, 2, 1]),
        (["seeds=[-1]"], "seeds", -1),
        (["seeds=[4294967296]"], "seeds", 2**32),
        (["threads=0"], "threads", 0),
        (["env.worker_timeout=-2"], "env.worker_timeout", -2.0),
        (["env.worker_timeout=nan"], "env.worker_timeout", math.nan),
        (["env.copies=3"], "env.copies", 3),
        (["env.copies=0"], "env.copies", 0),
        (["env.train_horizon=501"], "env.train_horizon", 501),
        # What could not be read again when the run is resumed.
        ([*POINT_MASS, "env.task_options=[{},{5: 1}]"], "env.task_options", [{}, {5: 1}]),
        ([*POINT_MASS, "env.task_options=[{g: nan}]"], "env.task_options", [{"g": math.nan}]),
        ([*POINT_MASS, f"env.task_options=[{{g: {DEEP}}}]"], "env.task_options", [{"g": LISTS}]),
    ],
    ids=str,
)
def test_refused_values_name_key_and_value(overrides, key, value):
    with refused(key, value):
        composed(*overrides)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([f"env.worker_timeout={10**400}"], None),
        (["alpha=two"], "alpha"),
        (["loss_alpha=half"], "loss_alpha"),
        (["agent.critic_layer_norm=maybe"], "agent.critic_layer_norm"),
        (["steps=many"], "steps"),
        (["+agent.depht=2"], "agent.depht"),
        (["+convention.norm=1"], "convention.norm"),
        (["+method.beta=1"], None),
    ],
)
def test_wrong_types_and_unknown_keys_are_refused(overrides, key):
    with pytest.raises(ConfigError) as caught:
        composed(*overrides)
    assert caught.value.key == key and "\n" not in str(caught.value)


def test_changed_keys_names_leaves():
    before, after = to_dict(Config()), to_dict(Config(steps=5))
    after["agent"]["width"] = 8
    assert changed_keys(before, after) == [("agent.width", 400, 8), ("steps", 2_000_000, 5)]


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_an_option_is_given_however_hydra_is_told_to_set_it(prefix):
    words = ["steps=3", f"{prefix}agent.temperature=shared"]
    assert is_given("agent.temperature", words) and not is_given("temperature", words)


def test_the_name_of_a_task_that_would_not_be_read_again_is_refused():
    options = [{"a": "x" * MAX_NAME}]
    env = EnvConfig("gymnasium", "gymnasium", ["Pendulum-v1"], task_options=options)
    with refused("env.task_options", options):
        task_names(env)
