"""Load the checkpoint that a resumed run continues from."""

from __future__ import annotations

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.runs.run_dir import Checkpoint, RunFolder
from mtrl_fairgrad.training.learner import Learner


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
