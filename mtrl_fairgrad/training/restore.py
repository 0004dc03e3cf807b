"""Load the checkpoint that a resumed run continues from, and the steps that were running then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.runs.run_dir import Checkpoint, RunFolder
from mtrl_fairgrad.training.learner import Learner
from mtrl_fairgrad.utils.encoded_arrays import decode_array, encode_array


def restore_learner(learner: Learner, folder: RunFolder, config: Config) -> Checkpoint | None:
    """Load the newest checkpoint that can be continued into the learner; None if there is none.

    Raises:
        ConfigError: the checkpoint does not fit the configuration, or it was made by an older
            version at the end of a run and inside an episode, without the simulators' state.
        RunFolderError: no checkpoint can be read, or there is none but there are results.
    """
    if not folder.has_checkpoint():
        folder.check_start_over()
        return None
    saved = folder.resume_checkpoint(learner.state(), learner.replay)
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


def save_running_steps(
    observations: Sequence[NDArray[np.float32]], actions: Mapping[int, NDArray[np.float32]]
) -> dict[str, Any]:
    """Return observations and actions of the steps that are running, by half, JSON-serialisable."""
    return {
        str(half): [encode_array(observations[half]), encode_array(taken)]
        for half, taken in actions.items()
    }


def load_running_steps(
    saved: Any, observations: list[NDArray[np.float32]], action_size: int
) -> dict[int, NDArray[np.float32]]:
    """Put the observations of the running steps back into `observations`; return their actions.

    Args:
        saved: what `save_running_steps` returned; None in checkpoints of older versions.
        observations: by half, the current ones of the simulators; changed in place.
        action_size: A.

    Raises:
        ValueError: the record is damaged.
    """
    actions: dict[int, NDArray[np.float32]] = {}
    try:
        for key, (before, taken) in (saved or {}).items():
            half = int(key)
            observations[half] = decode_array(before, observations[half])
            like = np.empty((len(observations[half]), action_size), np.float32)
            actions[half] = decode_array(taken, like)
    except (AttributeError, TypeError, IndexError, ValueError) as error:
        raise ValueError(
            f"the steps that were running are damaged in the checkpoint ({error!r}): "
            "use another checkpoint."
        ) from None
    return actions
