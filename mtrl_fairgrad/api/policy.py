"""`mtrl_fairgrad.load_policy(...)`: a trained policy as a function of an observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mtrl_fairgrad.config.schema import check_parts, from_stored
from mtrl_fairgrad.evaluation import policy_export
from mtrl_fairgrad.evaluation.runner import POLICY_SUFFIXES
from mtrl_fairgrad.evaluation.target import load_agent
from mtrl_fairgrad.runs.policy_description import sizes
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.factory import make_suite
from mtrl_fairgrad.utils.validation import ConfigError, check_choice

ROWS = 64
"""Rows that are computed at once if tasks have own parameters, which are copied for each row."""


class Policy:
    """The deterministic policy of one seed, on the CPU: `policy(observation, task="push-v3")`.

    Args:
        program: maps observations `[B, O]` and, if the tasks have own parameters, tasks `[B]` to
            actions `[B, A]`.
        tasks: names, in the order of the task axis.
        seed: the seed it was trained with.
        env_steps: transitions of each task that it was trained with.
        sizes: O and A.
        one_hot: whether observations end with the task's one-hot identity.
        needs_task: whether tasks have own parameters, so that the program takes the task.
    """

    def __init__(
        self,
        program: Callable[..., Tensor],
        tasks: Sequence[str],
        seed: int,
        env_steps: int,
        sizes: tuple[int, int],
        one_hot: bool,
        needs_task: bool,
    ) -> None:
        self._program, self._needs_task = program, needs_task
        self.tasks = tuple(tasks)
        self._identities = len(self.tasks) if one_hot else 0
        self.seed = seed
        self.env_steps = env_steps
        self.observation_size, self.action_size = sizes

    def __repr__(self) -> str:
        """Return what tells policies apart."""
        return f"<policy of seed {self.seed} after {self.env_steps} env_steps>"

    @torch.no_grad()
    def __call__(
        self, observation: ArrayLike, task: str | Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Return the action for an observation, or those of several.

        Args:
            observation: `[O]` or `[B, O]`, as the environment returns it. Where the policy observes
                the task's one-hot identity, it may be left out, and is then appended.
            task: name of the task, or of each row's; None where the observation holds the identity,
                or where it makes no difference.

        Returns:
            `[A]` or `[B, A]`, as the environment's step takes them.

        Raises:
            ConfigError: the task is unknown or missing, or the observation has another size, or
                another task's identity.
        """
        given = np.asarray(observation, np.float32)
        rows = np.atleast_2d(given)
        self._check_size(given, rows)
        indices = self._indices(rows, task)
        if self._identities:
            rows = self._with_identity(rows, np.eye(len(self.tasks), dtype=np.float32)[indices])
        inputs = torch.tensor(rows)
        if self._needs_task:
            parts = zip(inputs.split(ROWS), torch.from_numpy(indices).split(ROWS), strict=True)
            actions = torch.cat([self._program(*part) for part in parts]).numpy()
        else:
            actions = self._program(inputs).numpy()
        return actions[0] if given.ndim == 1 else actions

    def _check_size(self, given: NDArray[np.float32], rows: NDArray[np.float32]) -> None:
        complete = self.observation_size
        if rows.ndim == 2 and rows.shape[1] in (complete, complete - self._identities):
            return
        raise ConfigError(
            f"observation has the shape {list(given.shape)}, but this policy takes [{complete}] or "
            f"[rows, {complete}]: give what the environment returns.",
            "observation",
            given.shape,
        )

    def _with_identity(
        self, rows: NDArray[np.float32], identity: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Append the tasks' identity `[B, K]` to rows that lack it; refuse rows with another."""
        if rows.shape[1] < self.observation_size:
            return np.concatenate([rows, identity], axis=1)
        given = rows[:, -self._identities :]
        if not np.array_equal(given, identity):
            raise ConfigError(
                f"observation ends with {given.tolist()}, which is not the one-hot identity of the "
                "task: leave it out, or give that of the task.",
                "observation",
                given,
            )
        return rows

    def _indices(
        self, rows: NDArray[np.float32], task: str | Sequence[str] | None
    ) -> NDArray[np.int64]:
        """Return the index of each row's task, `[B]`; zeros where it makes no difference."""
        if task is not None:
            several = isinstance(task, (Sequence, np.ndarray)) and not isinstance(task, str)
            names = list(task) if several else [task] * len(rows)
            if len(names) != len(rows):
                raise ConfigError(
                    f"task names {len(names)} tasks for {len(rows)} observations: give one name, "
                    "or one for each.",
                    "task",
                    task,
                )
            known = [check_choice("task", name, self.tasks) for name in names]
            return np.array([self.tasks.index(name) for name in known], np.int64)
        if self._identities and rows.shape[1] == self.observation_size:
            return rows[:, -self._identities :].argmax(axis=1)
        if len(self.tasks) > 1 and (self._identities or self._needs_task):
            raise self._missing_task()
        return np.zeros(len(rows), np.int64)

    def _missing_task(self) -> ConfigError:
        return ConfigError(
            f"task=None is not allowed, since this policy was trained on several tasks: give one "
            f"of {', '.join(self.tasks)}.",
            "task",
            None,
        )


def load_policy(path: str | Path, seed: int | None = None) -> Policy:
    """Load the policy of a run, or an exported one.

    Load only files from people you trust: an exported policy is a program, see
    `mtrl_fairgrad.evaluation.policy_export`.

    Args:
        path: a run folder, whose newest checkpoint is taken, or the `.json` or `.pt2` that
            `Run.export` or `python -m mtrl_fairgrad.evaluate --export` wrote.
        seed: of a run folder; None for the first.

    Raises:
        ConfigError: a file is missing or damaged, or there is no such seed.
        RunFolderError: there is no run or no intact checkpoint.
    """
    path = Path(path)
    if path.suffix in POLICY_SUFFIXES and not path.is_dir():
        policies = _exported(path)
    else:
        policies = policies_of(path)
    if seed is None:
        return next(iter(policies.values()))
    if seed not in policies:
        allowed = ", ".join(map(str, policies))
        raise ConfigError(f"seed={seed} is not in {path}; allowed: {allowed}.", "seed", seed)
    return policies[seed]


def policies_of(path: Path) -> dict[int, Policy]:
    """Return the policy of each seed in the newest checkpoint of a run folder.

    Raises:
        ConfigError: the run cannot be used.
        RunFolderError: there is no run or no intact checkpoint.
    """
    folder = RunFolder.open(path)
    config = from_stored(folder.config, folder.path / "config.yaml")
    check_parts(config)
    tasks = tuple(config.env.tasks or ())
    agent, env_steps = load_agent(folder, config, tasks, None)
    suite = make_suite(config, tasks)
    sizes = suite.observation_size, suite.action_size
    policies: dict[int, Policy] = {}
    for seed, module in zip(config.seeds, agent.policy_modules(), strict=True):
        policies[seed] = Policy(
            module, tasks, seed, env_steps, sizes, config.env.one_hot, module.needs_tasks
        )
    return policies


def _exported(path: Path) -> dict[int, Policy]:
    exported = policy_export.load_policy(path)
    description: Any = exported.description
    policy = Policy(
        exported.run,
        description["tasks"],
        description["seed"],
        description["training"]["env_steps"],
        sizes(description),
        bool(description["config"]["env"].get("one_hot")),
        needs_task=len(description["inputs"]) > 1,
    )
    return {policy.seed: policy}
