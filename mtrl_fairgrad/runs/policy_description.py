"""The JSON of an exported policy: its schema, and what its parts must agree on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast

from mtrl_fairgrad.utils.file_schema import Count, Rate, check_schema, refusal
from mtrl_fairgrad.utils.safe_load import read_mapping
from mtrl_fairgrad.utils.validation import MAX_SEED, Bounds, ConfigError

FORMAT = "mtrl-fairgrad policy 1"
MAX_PROGRAM_BYTES = 2**30
MAX_SIZE, MAX_TASKS = 2**16, 1000
"""Largest numbers of an observation or action, and of tasks: all are tried at once."""


class Program(TypedDict):
    """The file of the program, in the same folder."""

    file: str
    bytes: Annotated[int, Bounds(1, at_most=MAX_PROGRAM_BYTES)]
    sha256: str


class Tensor(TypedDict):
    """A tensor that the program takes or returns."""

    name: str
    dtype: str
    shape: list[str | int]


class Protocol(TypedDict):
    """How the policy was evaluated."""

    in_words: str


class Result(TypedDict):
    """Success rates of the evaluation."""

    goals: Count
    success: dict[str, Rate]
    mean: Rate


class Training(TypedDict):
    """The training of the policy."""

    env_steps: Count


class _Required(TypedDict):
    format: Literal["mtrl-fairgrad policy 1"]
    program: Program
    inputs: list[Tensor]
    output: Tensor
    tasks: list[str]
    seed: Annotated[int, Bounds(0, at_most=MAX_SEED)]
    protocol: Protocol
    result: Result
    training: Training
    config: dict[str, Any]


class PolicyDescription(_Required, total=False):
    """What `evaluate` and `verify` need of the JSON."""

    exported_with: dict[str, str]


def read_description(path: Path) -> PolicyDescription:
    """Read the JSON of an exported policy.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is damaged, of another format, or its parts disagree.
    """
    try:
        content = read_mapping(path)
        check_schema(content, PolicyDescription)
        described = cast(PolicyDescription, content)
        _check_program(described["program"])
        _check_tensors(described)
        _check_tasks(described)
    except ValueError as error:
        key, value = getattr(error, "key", None), getattr(error, "value", None)
        raise ConfigError(
            f"{path} is not a description of a policy in the format '{FORMAT}' ({error}): "
            "give a file that evaluate --export wrote.",
            key,
            value,
        ) from None
    return described


def sizes(described: PolicyDescription) -> tuple[int, int]:
    """Return the numbers of an observation, O, and of an action, A."""
    last = (tensor["shape"][1] for tensor in (described["inputs"][0], described["output"]))
    observation, action = (int(size) for size in last)
    return observation, action


def _check_program(program: Program) -> None:
    name = program["file"]
    # So that a description cannot refer to other folders, or hold what no file can be named.
    if not re.fullmatch(r"[\w .()+,=@-]+\.pt2", name):
        raise refusal("program.file", name, "the name of a .pt2 in the same folder")


def _check_tensors(described: PolicyDescription) -> None:
    allowed = {"observations": ("float32", 2), "tasks": ("int64", 1)}
    names = [tensor["name"] for tensor in described["inputs"]]
    if names not in (["observations"], ["observations", "tasks"]):
        raise refusal("inputs", names, "observations, or observations and tasks")
    kinds = [(tensor, *allowed[tensor["name"]]) for tensor in described["inputs"]]
    for tensor, dtype, axes in (*kinds, (described["output"], "float32", 2)):
        shape = tensor["shape"]
        if len(shape) != axes or shape[0] != "rows" or not all(_is_size(n) for n in shape[1:]):
            raise refusal(f"{tensor['name']}.shape", shape, "rows, and a number for each column")
        if tensor["dtype"] != dtype:
            raise refusal(f"{tensor['name']}.dtype", tensor["dtype"], dtype)


def _is_size(size: str | int) -> bool:
    return isinstance(size, int) and 1 <= size <= MAX_SIZE


def _check_tasks(described: PolicyDescription) -> None:
    tasks, env = described["tasks"], described["config"].get("env")
    configured: object = cast("dict[str, Any]", env).get("tasks") if isinstance(env, dict) else None
    if not 1 <= len(set(tasks)) == len(tasks) <= MAX_TASKS:
        raise refusal("tasks", tasks, f"a list of 1 to {MAX_TASKS} different tasks")
    if configured != tasks:
        raise refusal("config.env.tasks", configured, "the list of tasks")
    if described["config"].get("seeds") != [described["seed"]]:
        raise refusal("config.seeds", described["config"].get("seeds"), "the policy's own seed")
    if described["result"]["success"].keys() != set(tasks):
        raise refusal("result.success", [*described["result"]["success"]], "a rate of each task")
