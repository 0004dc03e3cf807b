"""Load the checkpoint that a resumed run continues from."""

from __future__ import annotations

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.runs.checkpoint.store import steps_of
from mtrl_fairgrad.runs.run_dir import Checkpoint, RunFolder
from mtrl_fairgrad.training.learner import Learner


def restore_learner(learner: Learner, folder: RunFolder, config: Config) -> Checkpoint | None:
    """Load the newest checkpoint that can be continued into the learner; None if there is none.

    A checkpoint made inside an episode, at the end of a run, has no state of the simulators; to
    extend that run, the newest one at an episode boundary is loaded instead.

    Raises:
        ConfigError: the checkpoint does not fit the configuration, or only has a state inside an
            episode.
        RunFolderError: no checkpoint can be read, or there is none but there are results.
    """
    if not folder.has_checkpoint():
        folder.check_start_over()
        return None
    saved = folder.resume_checkpoint(learner.state(), learner.replay)
    if saved.state.get("environments") is None and saved.env_steps < config.steps:
        saved = _load_boundary_before(saved, learner, folder, config)
    try:
        learner.load_state(saved.groups)
    except (ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(
            f"the checkpoint in {folder.path} does not fit this run: {error}"
        ) from None
    return saved


def _load_boundary_before(
    saved: Checkpoint, learner: Learner, folder: RunFolder, config: Config
) -> Checkpoint:
    """Load the newest checkpoint at an episode boundary before `saved`."""
    for path in folder.checkpoints():
        if steps_of(path) < saved.env_steps:
            older = folder.resume_checkpoint(learner.state(), learner.replay, steps_of(path))
            if older.state.get("environments") is not None:
                return older
    raise ConfigError(
        f"the run in {folder.path} ended at env_steps={saved.env_steps}, inside an episode, and no "
        "earlier checkpoint is left: start a new run with steps a multiple of "
        f"env.horizon={config.env.horizon}."
    )
