"""Exported policies: a `torch.export` program that runs without this project, and its JSON.

`policy-<env_steps>-seed<seed>.pt2` maps observations `[B, O]` (and task indices `[B]` where tasks
have parameters of their own) to actions `[B, A]`, the mode of one seed's policy, for any B ≥ 1. The
`.json` of the same name holds the layout of its inputs, the bounds of its output, the tasks in
order, the protocol, its scores, versions, the run's configuration and the program's SHA-256.

**Load only files from people you trust.** `torch.export.load` of PyTorch 2.13 reads the weights of
files written here as raw bytes, but a file can ask for more: it may unpickle
(`weights_only=False`) weights, constants and example inputs, evaluates symbolic expressions with
sympy, and the program may call any operator. The checksum is compared before loading and detects
corruption, not tampering.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium.spaces import Box
from torch import Tensor

from mtrl_fairgrad.config.schema import Config, ConfigError, to_dict
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.runs.policy_description import (
    FORMAT,
    MAX_PROGRAM_BYTES,
    PolicyDescription,
    read_description,
    sizes,
)
from mtrl_fairgrad.utils.atomic_io import write_atomic, writing_remedy
from mtrl_fairgrad.utils.safe_files import check_limit, read_bytes

if TYPE_CHECKING:
    from mtrl_fairgrad.agents import PolicyModule


@dataclass(frozen=True)
class ExportedPolicy:
    """A loaded policy of one seed."""

    path: Path
    """Path of the JSON."""
    description: PolicyDescription
    _program: Callable[..., Tensor]

    @torch.no_grad()
    def act(self, observations: Tensor) -> Tensor:
        """Return modes `[K, A]` for observations `[K, O]` on the CPU, a row of each task in order.

        Raises:
            ConfigError: the program failed, or returned something else.
        """
        return self.run(observations, torch.arange(len(observations)))

    def run(self, observations: Tensor, tasks: Tensor | None = None) -> Tensor:
        """Return modes `[B, A]` for observations `[B, O]`; errors as above.

        Args:
            observations: `[B, O]`.
            tasks: int64 `[B]`, each row's index; needed only if the program takes it.
        """
        inputs = (observations, tasks)[: len(self.description["inputs"])]
        expected = (len(observations), sizes(self.description)[1])
        program = self.path.with_name(self.description["program"]["file"])
        try:
            actions: object = self._program(*inputs)
        except Exception as error:  # PyTorch raises many types
            raise ConfigError(
                f"{program} does not take the inputs that {self.path.name} describes "
                f"({type(error).__name__}): copy both files again, or export again."
            ) from None
        if not (
            isinstance(actions, Tensor)
            and actions.dtype == torch.float32
            and actions.shape == expected
        ):
            raise ConfigError(
                f"{program} returns other actions than {self.path.name} describes, which are "
                f"float32 of the shape {list(expected)}: copy both files again, or export again."
            )
        return actions


# ---- writing ----


class Program(NamedTuple):
    """A policy as `torch.export` serialises it."""

    content: bytes
    """Core operators and weights, without source code or paths."""
    needs_tasks: bool
    """Whether it takes each row's task, too."""


def export(program: Program, description: Mapping[str, Any], directory: Path) -> Path:
    """Write program and JSON of one seed; returns the path of the JSON.

    Args:
        program: of this seed.
        description: result of `describe` for this seed.
        directory: existing folder.

    Raises:
        ConfigError: a file cannot be written.
    """
    inputs = description["inputs"] if program.needs_tasks else description["inputs"][:1]
    path = (
        directory / f"policy-{description['training']['env_steps']}-seed{description['seed']}.json"
    )
    program_entry = {
        "file": path.with_suffix(".pt2").name,
        "kind": "torch.export",
        "bytes": len(program.content),
        "sha256": hashlib.sha256(program.content).hexdigest(),
    }
    written = {"format": FORMAT, "program": program_entry, **description, "inputs": inputs}
    try:
        check_limit(path.with_suffix(".pt2"), len(program.content), MAX_PROGRAM_BYTES)
        write_atomic(path.with_suffix(".pt2"), program.content)
        # Last, so that every JSON has its program.
        write_atomic(path, _as_json(written))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror}): "
            f"{writing_remedy(error, 'give another folder to --export')}."
        ) from error
    return path


def _as_json(description: Mapping[str, Any]) -> bytes:
    """Encode with indentation, but lists of numbers on one line."""
    text = json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False)
    return (
        re.sub(r"\[[\s\d.,e+-]+\]", lambda match: " ".join(match[0].split()), text).encode() + b"\n"
    )


def to_program(module: PolicyModule, observation_dim: int) -> Program:
    """Serialise a policy.

    Raises:
        ConfigError: `torch.export` cannot trace a registered network for any number of rows.
    """
    dtype = next(module.parameters()).dtype
    example = (torch.zeros(2, observation_dim, dtype=dtype), torch.zeros(2, dtype=torch.int64))
    example = example if module.needs_tasks else example[:1]
    rows = torch.export.Dim("rows", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch warns about its own code
        try:
            exported = torch.export.export(
                module, example, dynamic_shapes=({0: rows},) * len(example)
            )
        except Exception as error:  # PyTorch raises many types
            raise ConfigError(
                f"agent.network cannot be exported for any number of rows ({type(error).__name__} "
                "of torch.export): compute what it does not take by elementary operations, as "
                "nn.LayerNorm where tasks have own parameters, or leave out the export."
            ) from error
        exported = exported.run_decompositions({})  # replaces private operators of torch.func
        for node in exported.graph.nodes:
            # The rest is debugging information: stack traces with folders of this machine.
            node.meta = {key: value for key, value in node.meta.items() if key == "val"}
        content = io.BytesIO()
        torch.export.save(exported, content)
    return Program(content.getvalue(), module.needs_tasks)


def describe(
    config: Config,
    seed: int,
    spaces: tuple[Box, Box],
    training: Mapping[str, Any],
    protocol: Mapping[str, Any],
    result: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe a policy, except for its program.

    Args:
        config: configuration of the run, with its tasks.
        seed: the seed itself, not its index.
        spaces: observation and action space of one environment.
        training: `env_steps` and further facts about the training.
        protocol: protocol of the run, in any form.
        result: result of `scores`.
    """
    env = config.env
    of_run = {**to_dict(config), "seeds": [seed], "run_dir": None, "resume": None, "device": "auto"}
    of_run["eval"]["workers"] = None  # a setting of this evaluation
    return {
        "inputs": _inputs(config, spaces[0].shape[0]),
        "output": {
            "name": "actions",
            "dtype": "float32",
            "shape": ["rows", spaces[1].shape[0]],
            "low": spaces[1].low.tolist(),
            "high": spaces[1].high.tolist(),
            "meaning": "the mode of the policy, as the environment's step takes it",
        },
        "tasks": list(env.tasks or ()),
        "seed": seed,
        "protocol": {
            **protocol,
            "env": env.name,
            "horizon": env.horizon,
            "reward_version": env.reward_version,
            **_goals(config, seed),
        },
        "result": dict(result),
        "training": dict(training),
        "exported_with": manifest([], "cpu")["versions"],
        "config": of_run,
    }


def _goals(config: Config, seed: int) -> dict[str, Any]:
    """Describe the episodes that an evaluation plays."""
    from mtrl_fairgrad.training.factory import make_suite

    tasks = tuple(config.env.tasks or ())
    if config.env.suite == "gymnasium":
        return {
            "evaluation": "episodes whose reset seeds follow from seed, task and a number from 0"
        }
    goals: dict[str, Any] = {
        "evaluation": "of metaworld.MT1(task, seed).train_tasks, an episode each"
    }
    if config.env.goals == "frozen":
        suite = make_suite(config, tasks)
        goals["frozen_goals"] = {task: int(suite.goals(seed, task)[0]) for task in tasks}
    return goals


def _inputs(config: Config, size: int) -> list[dict[str, Any]]:
    """Describe the inputs: observations of `size` numbers, and tasks.

    `export` drops the tasks if a policy does not need them.
    """
    from mtrl_fairgrad.envs.observation_layout import observation_parts

    identities = len(config.env.tasks or ()) if config.env.one_hot else 0
    parts = observation_parts(size, identities, metaworld=config.env.suite != "gymnasium")
    observations = {
        "name": "observations",
        "dtype": "float32",
        "shape": ["rows", size],
        "layout": [
            {"name": p.name, "slice": [p.start, p.stop], "metaworld": p.metaworld} for p in parts
        ],
    }
    if config.agent.observation_normalization != "none":
        observations["meaning"] = "as the environment returns them; the program normalizes them"
    tasks = {
        "name": "tasks",
        "dtype": "int64",
        "shape": ["rows"],
        "meaning": "each row's index in the list of tasks",
    }
    return [observations, tasks]


def scores(tasks: tuple[str, ...], success: Any) -> dict[str, Any]:
    """Compute the success rates of one seed's episodes `[K, E]`, for `describe`."""
    rates = {task: float(rate) for task, rate in zip(tasks, success.mean(-1), strict=True)}
    return {
        "goals": int(success.shape[-1]),
        "success": rates,
        "mean": sum(rates.values()) / len(rates),
    }


# ---- reading ----


def load_policy(path: Path) -> ExportedPolicy:
    """Load an exported policy, given its JSON or its program; see the module's warning.

    Raises:
        ConfigError: one of the two is missing, damaged or of another format.
    """
    path = program = path.with_suffix(".json")
    try:
        description = read_description(path)
        program = path.with_name(description["program"]["file"])
        content = read_bytes(program, MAX_PROGRAM_BYTES)
    except OSError as error:
        raise ConfigError(
            f"{program} cannot be read ({error.strerror}): an exported policy is a .json "
            "and the .pt2 it names, in one folder."
        ) from None
    if hashlib.sha256(content).hexdigest() != description["program"]["sha256"]:
        raise ConfigError(
            f"{program} is damaged (SHA-256 mismatch with {path.name}): copy both files again, "
            "or export again."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            module = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # PyTorch raises many types
        raise ConfigError(
            f"{program} is intact, but PyTorch {torch.__version__} cannot load it "
            f"({type(error).__name__}): use PyTorch "
            f"{description.get('exported_with', {}).get('torch')}, with which it was exported."
        ) from None
    policy = ExportedPolicy(path, description, module)
    policy.act(torch.zeros(len(description["tasks"]), sizes(description)[0]))
    return policy
