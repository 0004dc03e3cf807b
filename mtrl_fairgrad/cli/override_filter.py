"""Allow-list of command-line words for Hydra, and of overrides stored in a run folder.

Hydra's own configuration can instantiate any class (`_target_`, logging factories), unpickle
(`--experimental-rerun`), read further folders and write files anywhere; launchers run commands of
their configuration before a job. Training needs none of that, so only this project's options pass,
Hydra's options for the folder of a sweep, and the options of launchers that size and place jobs.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.utils.arguments import override
from mtrl_fairgrad.utils.validation import ConfigError, bracket_depth

FLAGS = ("-h", "--help", "--hydra-help", "--version", "-m", "--multirun", "--resolve")
CFG_FLAGS = ("-c", "--cfg")
CFG_VALUES = ("job", "hydra", "all")
COMPLETION_FLAGS = ("-sc", "--shell-completion")
PATH_KEYS = ("run_dir", "resume", "data.root", "hydra.sweep.dir")
"""Options whose value is a path."""
MAX_WORD_LENGTH = 20_000
"""Characters."""
MAX_DEPTH = 32
"""Nested brackets."""
MAX_STORED = 2**17
"""Characters of all overrides of a run, as many as its config.yaml may have bytes."""

LAUNCHER_KEYS = (
    *("n_jobs", "batch_size", "timeout", "verbose"),  # joblib
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "nodes", "mem_gb", "name"),
    *("partition", "qos", "account", "comment", "constraint", "exclude", "gres", "cpus_per_gpu"),
    *("gpus_per_task", "mem_per_gpu", "mem_per_cpu", "signal_delay_s", "max_num_timeout"),
    *("array_parallelism", "stderr_to_stdout"),  # submitit
    *("ray.init.address", "ray.init.num_cpus", "ray.init.num_gpus", "ray.remote.memory"),
    *("ray.remote.num_cpus", "ray.remote.num_gpus", "ray.remote.max_retries"),
)
"""Keys below `hydra.launcher` that no launcher takes for a program, a file or a class."""
RAY_CLUSTERS = ("null", "auto", "local")
"""A host would get the jobs and could answer with code."""

_OVERRIDE = re.compile(
    r"(?P<operator>\+\+|\+|~|)(?P<key>[A-Za-z_][\w./-]{0,199})=(?P<value>.*)", re.DOTALL
)
_HYDRA_KEYS = re.compile(
    r"hydra/launcher|hydra\.launcher\.[\w.]+|hydra\.sweep\.(dir|subdir)|hydra\.mode"
)
_INDIRECT = re.compile(r"_target_|[${]")
"""Syntax that may contain a class name: a mapping, or an interpolation."""
_INTERPOLATION = re.compile(r"\$\{(?!(now:|hydra\.)[^${}]*\})")
"""Interpolations but those of time and of Hydra; others can make lines of a batch script."""


def quote_paths(words: Sequence[str]) -> list[str]:
    """Quote paths that Hydra's grammar cannot read, as the shell completes them: `resume=runs/ü`.

    What it can read stays: a value with quotes of its own, or several of a sweep.
    """
    quoted: list[str] = []
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in PATH_KEYS and not _is_readable(word):
            word = override(key, value)
        quoted.append(word)
    return quoted


def path_value(word: str) -> str:
    """Return the path that an override means, without Hydra's quotes and escapes."""
    [word] = quote_paths([word])
    try:
        parsed = OverridesParser.create().parse_override(word)
        return str(OmegaConf.create({"path": parsed.value()})["path"])
    except (HydraException, OmegaConfBaseException):
        return word.partition("=")[2]  # composing reports it


def _is_readable(word: str) -> bool:
    """Whether Hydra can parse an override."""
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def filter_overrides(words: Sequence[str]) -> list[str]:
    """Return the words if all are allowed, flags first, as Hydra requires.

    Raises:
        ConfigError: the first word that is not allowed, and what to write instead.
    """
    if words and words[0] in COMPLETION_FLAGS:
        return _completion(words)
    flags: list[str] = []
    overrides: list[str] = []
    remaining = iter(words)
    for word in remaining:
        _check_readable(word)
        if word in CFG_FLAGS or word.startswith("--cfg="):
            value = next(remaining, "nothing") if word in CFG_FLAGS else word.partition("=")[2]
            if value not in CFG_VALUES:
                allowed = ", ".join(CFG_VALUES)
                raise ConfigError(f"--cfg {value} is unknown; allowed: {allowed}.", "--cfg", value)
            flags += ["--cfg", value]
        elif word.startswith("-"):
            if word not in FLAGS:
                raise ConfigError(
                    f"{word} is not an option: write key=value; --help lists all.", word
                )
            flags.append(word)
        else:
            _check_override(word)
            overrides.append(word)
    return flags + overrides


def check_stored(words: Sequence[str]) -> None:
    """Check the overrides in a run's manifest, which is untrusted.

    Raises:
        ConfigError: training never stores such overrides.
    """
    _check_total(words)
    for word in words:
        _check_readable(word)
        if not _is_storable(word):
            raise ConfigError(
                f"its manifest.json has {word!r} among the overrides, which training never stores: "
                "do not trust this run, or remove the word if you know it."
            )
        _check_override(word)


def check_storable(words: Sequence[str]) -> None:
    """Check that a run can be resumed with these overrides, which its manifest will hold.

    Raises:
        ConfigError: the first that reads data of this machine, which may differ then; or they are
            too long.
    """
    _check_total(words)
    for word in words:
        if not _is_storable(word):
            key, _, value = word.partition("=")
            raise ConfigError(
                f"{word} reads data of this machine, so that the run could not be resumed: "
                f"give the value itself for {key}.",
                key,
                value,
            )


def _check_total(words: Sequence[object]) -> None:
    total = sum(len(str(word)) for word in words)
    if total > MAX_STORED:
        raise ConfigError(
            f"the overrides have {total:,} characters, and a run is read with at most "
            f"{MAX_STORED:,}: give fewer."
        )


def _is_storable(word: str) -> bool:
    """Whether training may have stored this override.

    It stores no flags, deletions, options of Hydra or resolvers, which read data of this machine.
    Interpolations of other options are allowed.
    """
    key = word.lstrip("+").partition("=")[0]
    return not re.match(r"-|~|hydra\b", key) and not re.search(r"\$\{[^}]*:", word)


def _completion(words: Sequence[str]) -> list[str]:
    pattern = r"(install|uninstall|query)=(bash|zsh|fish)"
    if len(words) != 2 or not re.fullmatch(pattern, words[1]):
        raise ConfigError(
            f"{words[0]} takes one argument: install=SHELL, uninstall=SHELL or query=SHELL, where "
            "SHELL is bash, zsh or fish.",
            words[0],
        )
    return list(words)


def _check_readable(word: str) -> None:
    if _has_control_characters(word):
        raise ConfigError(f"{word!r} contains an unprintable character: remove it.")
    if len(word) > MAX_WORD_LENGTH or bracket_depth(word) > MAX_DEPTH:
        raise ConfigError(
            f"{word[:40]}… is too long or too deeply nested: give at most {MAX_WORD_LENGTH} "
            f"characters and {MAX_DEPTH} nested brackets."
        )


def _has_control_characters(characters: Iterable[str]) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in characters)


def _check_override(word: str) -> None:
    match = _OVERRIDE.fullmatch(word)
    if match is None:
        raise ConfigError(
            f"{word!r} cannot be parsed: write key=value, lists as [a,b], "
            "and quote what the shell would interpret."
        )
    key, value = match["key"], match["value"]
    if match["operator"] == "~":
        raise ConfigError(
            f"{word} would delete a required option: give {key}=VALUE, or leave it out.", key
        )
    if re.match(r"hydra\b", key):
        _check_hydra_override(word, key, value)
    elif os.path.isdir(config_dir() / key) and re.search(r"[^\w,\s'\"()\[\]-]", value):
        raise ConfigError(
            f"{word} is not the name of a choice: choose one that --help lists for {key}.",
            key,
            value,
        )


def _check_hydra_override(word: str, key: str, value: str) -> None:
    if not _HYDRA_KEYS.fullmatch(key) or (key == "hydra.mode" and value != "MULTIRUN"):
        raise ConfigError(
            f"{word} is not allowed; allowed of Hydra's own options: hydra/launcher, "
            "hydra.launcher.KEY, hydra.sweep.dir, hydra.sweep.subdir and hydra.mode=MULTIRUN.",
            key,
            value,
        )
    if key == "hydra/launcher" and not re.fullmatch(r"\w+", value):
        raise ConfigError(
            f"{word} is not the name of a launcher: give one such as parallel or slurm.", key, value
        )
    if key.startswith("hydra.sweep.") and _INTERPOLATION.search(value):
        raise ConfigError(
            f"{word} refers to other options: give a folder, which may contain ${{now:…}} and "
            "${hydra.…}.",
            key,
            value,
        )
    if key == "hydra.sweep.subdir" and (".." in value or value.lstrip("'\"").startswith("/")):
        raise ConfigError(f"{word} leaves the sweep's folder: give a name for runs.", key, value)
    if key.startswith("hydra.launcher."):
        _check_launcher_override(word, key, value)


def _check_launcher_override(word: str, key: str, value: str) -> None:
    name = key.removeprefix("hydra.launcher.")
    if name not in LAUNCHER_KEYS:
        raise ConfigError(
            f"{word} is not allowed, since launchers may run what their options say; allowed below "
            f"hydra.launcher: {', '.join(LAUNCHER_KEYS)}; what jobs need before they start belongs "
            "into the shell that starts the sweep.",
            key,
            value,
        )
    if _INDIRECT.search(value):
        raise ConfigError(f"{word} could start any program: give a plain value.", key, value)
    if name == "ray.init.address" and value not in RAY_CLUSTERS:
        raise ConfigError(
            f"{word} would send the jobs to another machine: give {' or '.join(RAY_CLUSTERS)}, and "
            "name a cluster in the environment variable RAY_ADDRESS.",
            key,
            value,
        )
