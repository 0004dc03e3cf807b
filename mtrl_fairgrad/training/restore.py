"""Load the checkpoint that a resumed run continues from, and the steps that were running then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.envs.saved_state import from_arrays, to_arrays
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.runs.run_dir import Checkpoint, RunFolder, RunFolderError
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.training.simulator_faults import SavedFaults
from mtrl_fairgrad.utils.encoded_arrays import decode_array, encode_array
from mtrl_fairgrad.utils.file_schema import Count, check_schema


class RunState(TypedDict, total=False):
    """The state.json of a checkpoint; those of older versions lack parts."""

    environments: dict[str, Any] | None
    running: list[Count] | dict[str, Any] | None
    evaluation: Count | None
    """The env_steps of the evaluation that was running."""
    replaced: dict[str, Count]
    """Number of simulator workers that were replaced, by what they simulated."""
    non_finite: SavedFaults


SIMULATORS = "simulators"
"""Group of tensors in checkpoints that `save_simulators` returns."""


def restore_learner(
    learner: Learner, folder: RunFolder, config: Config, extra_bytes: int = 0
) -> Checkpoint | None:
    """Load the newest checkpoint that can be continued into the learner; None if there is none.

    Args:
        learner: changed in place.
        folder: of the run.
        config: validated.
        extra_bytes: bytes that a checkpoint may hold besides the learner's state.

    Raises:
        ConfigError: the checkpoint does not fit the configuration, or it was made by an older
            version at the end of a run and inside an episode, without the simulators' state.
        RunFolderError: no checkpoint can be read, or there is none but there are results.
    """
    if not folder.has_checkpoint():
        folder.check_start_over()
        return None
    saved = folder.resume_checkpoint(learner.state(), learner.replay, extra_bytes=extra_bytes)
    try:
        check_schema(saved.state, RunState)
    except ConfigError as error:
        raise RunFolderError(
            f"the state.json of the checkpoint at env_steps={saved.env_steps} in {folder.path} is "
            f"invalid ({error}): restore it from a copy."
        ) from None
    if saved.state.get("environments") is None and saved.env_steps < config.steps:
        raise ConfigError(
            f"steps={config.steps} cannot extend the run in {folder.path}, whose last checkpoint, "
            f"of an older version, lacks the episode that env_steps={saved.env_steps} was in: "
            f"give steps={saved.env_steps} to leave it as it is, or start a new run.",
            "steps",
            config.steps,
        )
    try:
        learner.load_state(saved.groups)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the checkpoint in {folder.path} does not fit this run: {error}"
        ) from None
    return saved


def by_half(envs: TaskVectorEnv, observations: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Split the observations `[S·E·K, O]` of all simulators by half."""
    return [observations[rows] for rows in envs.half_rows]


def save_simulators(
    state: dict[str, Any],
    observations: Sequence[NDArray[np.float32]],
    actions: Mapping[int, NDArray[np.float32]],
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a checkpoint stores of the simulators: entries of its state, and tensors.

    Args:
        state: of `TaskVectorEnv.get_state`.
        observations: by half, those of its running step, or of its next one.
        actions: by half, those of its running step.
    """
    plain, arrays = to_arrays(state)
    for half, taken in actions.items():
        arrays[f"running.{half}.observations"] = observations[half]
        arrays[f"running.{half}.actions"] = taken
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {"environments": plain, "running": list(actions)}, tensors


def simulator_state(saved: Checkpoint) -> dict[str, Any] | None:
    """Return the state for `TaskVectorEnv.set_state`; None if an older version ended the run there.

    Raises:
        ValueError: it is damaged.
    """
    plain = saved.state.get("environments")
    return from_arrays(plain, _arrays(saved)) if plain else None


def load_running_steps(
    saved: Checkpoint, observations: list[NDArray[np.float32]], action_size: int
) -> dict[int, NDArray[np.float32]]:
    """Put the observations of the running steps back into `observations`; return their actions.

    Args:
        saved: with what `save_simulators` returned, or as older versions stored it.
        observations: by half, the current ones of the simulators; changed in place.
        action_size: A.

    Raises:
        ValueError: the record is damaged.
    """
    actions: dict[int, NDArray[np.float32]] = {}
    running, arrays = saved.state.get("running") or {}, _arrays(saved)
    try:
        for key in running:
            half, names = int(key), ("observations", "actions")
            older = dict(zip(names, running[key], strict=True)) if isinstance(running, dict) else {}
            before, taken = (
                older[name] if older else encode_array(arrays[f"running.{half}.{name}"])
                for name in names
            )
            observations[half] = decode_array(before, observations[half])
            like = np.empty((len(observations[half]), action_size), np.float32)
            actions[half] = decode_array(taken, like)
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"the steps that were running are damaged in the checkpoint ({error!r}): "
            "use another checkpoint."
        ) from None
    return actions


def _arrays(saved: Checkpoint) -> dict[str, NDArray[Any]]:
    """Return the tensors of the simulators; ValueError if NumPy has no such type."""
    tensors = saved.groups.get(SIMULATORS, {})
    try:
        return {name: tensor.numpy() for name, tensor in tensors.items()}
    except TypeError as error:
        raise ValueError(
            f"the saved environment state is damaged ({error}): use another checkpoint."
        ) from None
