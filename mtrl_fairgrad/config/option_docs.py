"""Text about all options for `--help` and docs/configuration.md, from the dataclasses' metadata.

Options of a method or benchmark have no dataclass; their help is the comment in their YAML file.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf

from mtrl_fairgrad.config.groups import chosen_groups, config_dir, config_group
from mtrl_fairgrad.utils.validation import Bounds, field_types, optional_type

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

WIDTH = 100
"""Columns of a help text."""


@dataclass(frozen=True)
class Option:
    """One option, or a group (`is_group`) whose options depend on the choice."""

    key: str
    """Dotted name."""
    default: Any
    help: str
    allowed: str = ""
    """Type, bounds, choices and unit in words; empty if there are no constraints."""
    is_group: bool = False


def options_of(defaults: DataclassInstance, prefix: str = "") -> Iterator[Option]:
    """Yield the options of a configuration and its nested dataclasses, in their order."""
    types = field_types(type(defaults))
    for field in dataclasses.fields(defaults):
        key, value = f"{prefix}{field.name}", getattr(defaults, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from options_of(value, f"{key}.")
        else:
            is_group = isinstance(value, dict)
            allowed = "" if is_group else _allowed(types[field.name], field.metadata)
            yield Option(key, value, str(field.metadata.get("help", "")), allowed, is_group)


def choice_options(group: str, name: str) -> Iterator[Option]:
    """Yield the options of a choice of a group, with the comments of its YAML file as help."""
    comments = _comments(group, name)
    for key, value in config_group(group)[name].items():
        if key != "name":
            yield Option(f"{group}.{key}", value, comments.get(key, ""))


def help_text(schema: str, _root_: DictConfig) -> str:
    """Describe all options with their composed values; an OmegaConf resolver, `$` is doubled.

    Args:
        schema: dotted path of the dataclass, such as `mtrl_fairgrad.config.schema.Config`.
        _root_: what Hydra composed.
    """
    module, _, name = schema.rpartition(".")
    values = cast(dict[str, Any], OmegaConf.to_container(_root_, resolve=False))
    blocks: list[str] = []
    for option in options_of(getattr(import_module(module), name)()):
        value = _select(values, option.key)
        if option.is_group and isinstance(value, dict):
            chosen = cast(dict[str, Any], value)
            comments = _comments(option.key, str(chosen.get("name")))
            blocks.append(_block(f"{option.key}.name", chosen.get("name"), option.help))
            blocks += [
                _block(f"{option.key}.{key}", chosen[key], comments.get(key, ""))
                for key in chosen
                if key != "name"
            ]
        else:
            sentences = [option.help, f"Allowed: {option.allowed}." if option.allowed else ""]
            blocks.append(_block(option.key, value, " ".join(filter(None, sentences))))
    return "\n".join(blocks).replace("$", "$$")


def group_text(root: str) -> str:
    """List the groups of a command and their choices; an OmegaConf resolver.

    Args:
        root: primary file of configs/, without `.yaml`.
    """
    lines = [f"{group}: {', '.join(config_group(group))}" for group in chosen_groups(root)]
    launchers = sorted(path.stem for path in (config_dir() / "hydra/launcher").glob("*.yaml"))
    return "\n".join([*sorted(lines), f"hydra/launcher: {', '.join(launchers)} (with --multirun)"])


OmegaConf.register_new_resolver("option_help", help_text, replace=True)
OmegaConf.register_new_resolver("group_help", group_text, replace=True)


def markdown_tables(defaults: DataclassInstance) -> list[str]:
    """Return the lines of Markdown tables of all options, one per nested dataclass."""
    lines: list[str] = []
    section = None
    for option in options_of(defaults):
        if option.is_group:
            continue
        group = option.key.rpartition(".")[0]
        if group != section:
            section = group
            title = f"`{group}.…`" if group else "Top level"
            lines += ["", f"### {title}", "", *_table_head()]
        lines.append(_table_row(option))
    return lines


def choice_tables(group: str) -> list[str]:
    """Return the lines of Markdown tables of a group's choices that have options."""
    lines: list[str] = []
    for name in config_group(group):
        options = list(choice_options(group, name))
        if options:
            lines += ["", f"### `{group}={name}`", "", "| Option | Default | Meaning |"]
            lines += ["| --- | --- | --- |"]
            lines += [
                f"| `{option.key}` | `{_yaml(option.default)}` | {_escape(option.help)} |"
                for option in options
            ]
    return lines


def _allowed(annotation: Any, metadata: Any) -> str:
    kind, optional = optional_type(annotation)
    words: list[str] = []
    if metadata.get("choices"):
        words.append(", ".join(metadata["choices"]))
    bounds: Bounds = metadata.get("bounds", Bounds())
    if dataclasses.replace(bounds, finite=True) != Bounds():
        noun = {int: "an integer", float: "a number"}.get(kind, "numbers")
        words.append(bounds.describe(noun))
    if words and optional:
        words.append("or null")
    if metadata.get("unit"):
        words.append(f"(in {metadata['unit']})" if words else f"in {metadata['unit']}")
    return " ".join(words)


def _block(key: str, value: Any, text: str) -> str:
    wrapped = textwrap.wrap(text, WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return "\n".join([f"  {key}={_yaml(value)}", *(f"      {line}" for line in wrapped)])


def _table_head() -> list[str]:
    return ["| Option | Default | Allowed | Meaning |", "| --- | --- | --- | --- |"]


def _table_row(option: Option) -> str:
    cells = [f"`{option.key}`", f"`{_yaml(option.default)}`", option.allowed, option.help]
    return f"| {' | '.join(_escape(cell) for cell in cells)} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _select(values: dict[str, Any], key: str) -> Any:
    node: Any = values
    for part in key.split("."):
        node = cast(dict[str, Any], node).get(part) if isinstance(node, dict) else None
    return node


@functools.cache
def _comments(group: str, name: str) -> dict[str, str]:
    """Return key → the comment behind it in configs/GROUP/NAME.yaml."""
    path = config_dir() / group / f"{name}.yaml"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = (re.match(r"(\w+):.*?\s#\s(.*)", line) for line in lines)
    return {match[1]: match[2].strip() for match in matches if match}
