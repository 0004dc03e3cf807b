"""Which words of a command line reach Hydra, and which of a stored run's are taken again.

Hydra's own configuration makes objects of any class that it names (`_target_`, the factories of
logging), unpickles (`--experimental-rerun`), reads further folders and writes files wherever it is
told to. None of that is needed to train, so only what is needed passes: the options of ours, and of
Hydra's those that say where and how a sweep runs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from mtrl_fairgrad.config.groups import config_dir
from mtrl_fairgrad.utils.validation import ConfigError, bracket_depth

FLAGS = ("-h", "--help", "--hydra-help", "--version", "-m", "--multirun", "--resolve")
SHOWING = ("-c", "--cfg")
SHOWN = ("job", "hydra", "all")
COMPLETION = ("-sc", "--shell-completion")
LONGEST_WORD = 20_000
"""Characters."""
DEEPEST = 32
"""Brackets within brackets."""

_WORD = re.compile(r"(?P<operator>\+\+|\+|~|)(?P<key>[A-Za-z_][\w./-]*)=(?P<value>.*)", re.DOTALL)
_OF_HYDRA = re.compile(
    r"hydra/launcher|hydra\.launcher\.[\w.]+|hydra\.sweep\.(dir|subdir)|hydra\.mode"
)
_INDIRECT = re.compile(r"_target_|[${]")
"""What may build a class's name: a mapping, or an interpolation, which can hide one."""


def sift(words: Sequence[str]) -> list[str]:
    """The words as Hydra takes them: flags first.

    Raises:
        ConfigError: the first word that is not for this project, and what to write instead.
    """
    if words and words[0] in COMPLETION:
        if len(words) != 2 or not re.fullmatch(
            r"(install|uninstall|query)=(bash|zsh|fish)", words[1]
        ):
            raise ConfigError(
                f"{words[0]} takes install=, uninstall= or query=, and of these bash, zsh or fish."
            )
        return list(words)
    flags, overrides = list[str](), list[str]()
    left = iter(words)
    for word in left:
        _check_readable(word)
        if word in SHOWING or word.startswith("--cfg="):
            shown = next(left, "nothing") if word in SHOWING else word.partition("=")[2]
            if shown not in SHOWN:
                raise ConfigError(f"--cfg {shown} is unknown; allowed: {', '.join(SHOWN)}.")
            flags += ["--cfg", shown]
        elif word.startswith("-"):
            if word not in FLAGS:
                raise ConfigError(f"{word} is no option here: write key=value; --help lists all.")
            flags.append(word)
        else:
            _check_override(word)
            overrides.append(word)
    return flags + overrides


def stored_words(found: object) -> list[str]:
    """The words that a run was started with, as its manifest has them, once they are known to be of
    ours alone.

    Raises:
        ConfigError: anything else, for the folder may be a stranger's.
    """
    if not isinstance(found, list):
        raise ConfigError(
            "its manifest.json has no list of overrides: restore it from a copy, or give another "
            "run."
        )
    for word in found:
        key = word.lstrip("+").partition("=")[0] if isinstance(word, str) else ""
        # Interpolations of ours refer to other options; resolvers look at this machine.
        if (
            not isinstance(word, str)
            or re.match(r"-|~|hydra\b", key)
            or re.search(r"\$\{[^}]*:", word)
        ):
            raise ConfigError(
                f"its manifest.json has {word!r} among the overrides, which training never stores: "
                "do not trust this run, or take the word out if you know it."
            )
        _check_readable(word)
        _check_override(word)
    return found


def _check_readable(word: str) -> None:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in word):
        raise ConfigError(f"{word!r} has a character that cannot be printed: leave it out.")
    if len(word) > LONGEST_WORD or bracket_depth(word) > DEEPEST:
        raise ConfigError(
            f"{word[:40]}… is too long or too deep: at most {LONGEST_WORD} characters and "
            f"{DEEPEST} brackets within "
            "each other are read."
        )


def _check_override(word: str) -> None:
    found = _WORD.fullmatch(word)
    if found is None:
        raise ConfigError(
            f"{word!r} cannot be read: write key=value, lists as [a,b], and quote what the shell "
            "would eat."
        )
    key, value = found["key"], found["value"]
    if found["operator"] == "~":
        raise ConfigError(
            f"{word} would delete an option, but all are needed: give {key}=VALUE, or leave it out."
        )
    if re.match(r"hydra\b", key):
        _check_of_hydra(word, key, value)
    elif (config_dir() / key).is_dir() and re.search(r"[^\w,\s'\"()\[\]-]", value):
        raise ConfigError(f"{word} is no name: choose one that --help lists for {key}.")


def _check_of_hydra(word: str, key: str, value: str) -> None:
    if not _OF_HYDRA.fullmatch(key) or (key == "hydra.mode" and value != "MULTIRUN"):
        raise ConfigError(
            f"{word} is not to be changed: of Hydra's own options, hydra/launcher, "
            "hydra.launcher.…, hydra.sweep.dir and hydra.sweep.subdir are."
        )
    if key == "hydra/launcher" and not re.fullmatch(r"\w+", value):
        raise ConfigError(f"{word} is no name: give one such as parallel or slurm.")
    if key.startswith("hydra.launcher.") and (_INDIRECT.search(value) or "_target_" in key):
        raise ConfigError(f"{word} could start any program: give a plain value, and no _target_.")
