"""One sentence for each mistake that Hydra finds in a command line, with the word to write instead.

Every command in such a sentence must work; a test runs each.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from hydra.errors import (
    ConfigCompositionException,
    MissingConfigException,
    OverrideParseException,
)

from mtrl_fairgrad.config.groups import chosen_groups, config_dir, config_group
from mtrl_fairgrad.utils.validation import UNSET, unknown_choice

PLUGIN_EXTRAS = {
    "joblib": "sweep",
    "submitit_local": "sweep",
    "submitit_slurm": "sweep",
    "ray": "ray",
}
"""Hydra launcher plugin → extra of this package that installs it."""

_OTHER_NAMES = {
    "learning_rate": "lr actor_lr critic_lr policy_lr q_lr step_size",
    "temperature_learning_rate": "alpha_lr temperature_lr entropy_lr",
    "learning_rate_end": "lr_end final_lr lr_final end_lr lr_decay lr_schedule",
    "weight_decay": "wd decay",
    "beta1": "b1 adam_beta1 betas",
    "beta2": "b2 adam_beta2",
    "adam_epsilon": "eps epsilon adam_eps",
    "width": "hidden_size hidden_dim hidden_units hidden_width num_units units layer_size",
    "depth": "layers num_layers n_layers hidden_layers num_hidden_layers",
    "batch_size": "batch bs minibatch_size",
    "buffer_size": "buffer replay_size replay_buffer_size capacity memory_size replay_capacity",
    "discount": "gamma discount_factor",
    "polyak": "tau target_tau soft_tau",
    "warmup_steps": "learning_starts start_steps random_steps initial_steps warmup seed_steps",
    "updates_per_step": "utd utd_ratio replay_ratio gradient_steps update_ratio",
    "max_gradient_norm": "clip grad_clip clip_grad max_grad_norm grad_norm gradient_clip",
    "temperature": "entropy_coefficient entropy_coef ent_coef",
    "initial_temperature": "init_temperature init_alpha alpha_init",
    "seeds": "seed random_seed",
    "steps": "num_steps n_steps total_steps max_steps timesteps total_timesteps iterations "
    "num_iterations num_env_steps env_steps train_steps",
    "epochs": "epoch num_epochs n_epochs max_epochs",
    "halve_every": "scheduler_step lr_step step_lr",
    "device": "cuda gpu accelerator",
    "threads": "num_threads n_threads",
    "workers": "num_workers n_workers num_processes n_jobs",
    "run_dir": "out out_dir output output_dir log_dir save_dir exp_dir work_dir folder dir",
    "resume": "checkpoint load restore resume_from",
    "eval.every": "eval_every eval_freq eval_frequency eval_interval "
    "save_every save_freq save_interval checkpoint_every checkpoint_freq checkpoint_interval",
    "eval.episodes": "eval_episodes n_eval_episodes num_eval_episodes",
    "horizon": "max_episode_steps episode_length time_limit max_path_length",
    "env": "environment env_name env_id suite",
    "method": "algo algorithm weighting mtl_method",
    "benchmark": "dataset data_set",
    "data.root": "data_dir data_root data_path dataset_path root",
    "amp": "mixed_precision bf16 fp16",
    "alpha": "fairness",
}
_OPTION_OF = {name: option for option, names in _OTHER_NAMES.items() for name in names.split()}
"""Another name of an option → its last word, or its whole name."""


_OF_CHOICE = ("method", "benchmark")
"""Groups whose options depend on the choice."""


def explain(
    error: Exception, arguments: Sequence[str], known: Sequence[str], module: str, root: str
) -> str:
    """Describe in one sentence an error that Hydra raised while composing.

    Args:
        error: what was raised.
        arguments: the command line.
        known: dotted names of all options, those of every choice of a group included.
        module: the command's module.
        root: primary file of configs/, without `.yaml`.
    """
    text = str(error)
    plugin = re.search(r"Could not (?:find|load) 'hydra/launcher/(\w+)'", text)
    if plugin and plugin[1] in PLUGIN_EXTRAS:
        install = f'pip install "mtrl-fairgrad[{PLUGIN_EXTRAS[plugin[1]]}]"'
        return f"Hydra's launcher {plugin[1]} is not installed: {install}."
    ambiguous = re.match(r"Ambiguous value for argument '((.*?)=(.*?))'", text)
    if ambiguous:
        key, values = ambiguous[2], ambiguous[3]
        one_run = f", or {key}=[{values}] for one run" if key in ("seeds", "env.tasks") else ""
        return f"{ambiguous[1]} names several runs: add --multirun to run all{one_run}."
    if isinstance(error, MissingConfigException) and error.options:
        group, _, value = str(error.missing_cfg_file).rpartition("/")
        resumed = any(word.startswith("resume=") for word in arguments)
        hint = "if a script registered it, resume by that script." if resumed else ""
        return str(unknown_choice(group, value, error.options, hint))
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override!r} cannot be parsed: write key=value, lists as [a,b], and quote what "
            "the shell would interpret."
        )
    if isinstance(error, ConfigCompositionException):
        full_key = getattr(error.__cause__, "full_key", None)
        for argument in arguments:
            key = argument.partition("=")[0].lstrip("+~")
            if f"'{key}'" in text or key == full_key:
                return _unknown(key, arguments, known, module, root)
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return f"{line.rstrip('.')}; python -m {module} --help lists what is allowed."


def refused_option(error: Exception, arguments: Sequence[str]) -> tuple[str | None, object]:
    """Return the option, and its value, about which `explain` writes; None and UNSET for no one."""
    if isinstance(error, MissingConfigException):
        group, _, value = str(error.missing_cfg_file).rpartition("/")
        return group, value
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        return key, value
    full_key = getattr(error.__cause__, "full_key", None)
    for argument in arguments:
        key, _, value = argument.partition("=")
        name = key.lstrip("+~")
        if f"'{name}'" in str(error) or name == full_key or f"argument '{argument}'" in str(error):
            return name, value
    return None, UNSET


def similar_option(key: str, known: Sequence[str]) -> str | None:
    """Return the option that someone may mean who wrote `key`: by its meaning, else its spelling.

    Args:
        key: dotted name of what is no option.
        known: dotted names of all options.
    """
    group, _, word = key.rpartition(".")
    joined = key.replace(".", "_").lower()  # eval.freq means what eval_freq does
    wanted = _OPTION_OF.get(joined) or _OPTION_OF.get(word.lower(), word)
    options = [name for name in known if name != key]
    if joined in options:
        return joined
    same = [name for name in options if wanted in (name, name.rpartition(".")[2])]
    if same:
        return min(same, key=lambda name: (name.rpartition(".")[0] != group, name.count(".")))
    close = difflib.get_close_matches(key, options, n=1, cutoff=0.75)
    if close:
        return close[0]
    of_word = {name.rpartition(".")[2]: name for name in reversed(options)}
    close = difflib.get_close_matches(word, list(of_word), n=1, cutoff=0.75)
    return of_word[close[0]] if close else None


def _unknown(
    key: str, arguments: Sequence[str], known: Sequence[str], module: str, root: str
) -> str:
    """Describe an option that the composed configuration does not have."""
    group, _, option = key.partition(".")
    owners = [f"{group}={name}" for name, options in _choices(group).items() if option in options]
    if key in known and owners:
        chosen = f"{group}={_chosen(group, arguments, root)}"
        return f"{key} is not an option of {chosen}: drop it, or choose {' or '.join(owners)}."
    chosen = {name: _choices(name).get(_chosen(name, arguments, root)) for name in _OF_CHOICE}
    similar = similar_option(key, [name for name in known if _exists(name, chosen)])
    hint = f"; did you mean {similar}?" if similar else ""
    return f"{key} is not an option{hint}; python -m {module} --help lists all."


def _exists(name: str, chosen: Mapping[str, dict[str, Any] | None]) -> bool:
    """Whether the composed configuration has an option; for an unknown choice, True."""
    group, _, option = name.partition(".")
    options = chosen.get(group)
    return not option or options is None or option in options


def _choices(group: str) -> dict[str, dict[str, Any]]:
    return config_group(group) if os.path.isdir(config_dir() / group) else {}


def _chosen(group: str, arguments: Sequence[str], root: str) -> str:
    """Return the choice of a group: that of the command line, else the default."""
    for argument in reversed(arguments):
        if argument.startswith(f"{group}="):
            return argument.partition("=")[2]
    return chosen_groups(root).get(group, "")


def dotted_keys(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all options; an empty dictionary stands for any choice."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            values = cast(dict[str, Any], value)
            for choice in [values] if values else config_group(key).values():
                yield from dotted_keys(choice, f"{prefix}{key}.")
