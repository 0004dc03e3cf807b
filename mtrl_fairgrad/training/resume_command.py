"""The shell command that resumes a run, printed wherever training ends early."""

from __future__ import annotations

from collections.abc import Sequence

from mtrl_fairgrad.config.schema import RESUMABLE
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.arguments import command_line, override


def resume_command(folder: RunFolder, steps: int, overrides: Sequence[str]) -> str:
    """Return the command that resumes the run in `folder`, ready for a shell.

    The folder stores its length and the overrides it was started with. Only options that were given
    when it was last resumed, and that do not belong to the run, have to be given again, and a
    length that the folder does not store yet.

    Args:
        folder: the run's folder.
        steps: length of the run.
        overrides: the command line of this process, stored overrides included.
    """
    stored = folder.manifest.get("overrides", [])
    last = {word.partition("=")[0].lstrip("+"): word for word in overrides}
    again = [
        word
        for key, word in last.items()
        if key in RESUMABLE - {"resume", "steps"} and word not in stored
    ]
    if steps != folder.steps:
        again.insert(0, f"steps={steps}")
    return command_line("train", override("resume", folder.path), *again)
