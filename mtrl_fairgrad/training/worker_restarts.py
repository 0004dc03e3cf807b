"""Simulator workers that die or hang: how many were replaced, told and limited.

Replacing itself is `reset` of the simulators: in training, fresh episodes of all tasks and seeds
begin together, with goals that follow those seen so far; an evaluation is played again from its
beginning. What happened in the step, or the evaluation, that a worker was lost in is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mtrl_fairgrad.envs import WorkerLost
from mtrl_fairgrad.training.logger import Tracker


class Replacements:
    """Of one run, resumed or not.

    Args:
        limit: how many there may be (`env.worker_restarts`).
        tracker: where they are shown.
        env_steps: where training is.
    """

    def __init__(self, limit: int, tracker: Tracker, env_steps: Callable[[], int]) -> None:
        self._limit, self._tracker, self._env_steps = limit, tracker, env_steps
        self.counts = {"training": 0, "evaluation": 0}
        """By what the workers simulated; belongs into checkpoints."""

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def admit(self, lost: WorkerLost, of: str) -> None:
        """Count one more, of `training` or `evaluation`, and tell.

        Raises:
            WorkerLost: there were as many as there may be.
        """
        if self.count >= self._limit:
            self._tracker.say(
                f"note: env.worker_restarts={self._limit} workers were replaced already"
            )
            raise lost
        self.counts[of] += 1
        what = (
            "all episodes of training begin anew"
            if of == "training"
            else "the evaluation begins anew"
        )
        self._tracker.say(
            f"note: at env_steps {self._env_steps()} {lost.loss}: {what} with another in its "
            "place, replacement "
            f"{self.count} of at most {self._limit}"
        )
        self._show()

    def go_back_to(self, saved: Mapping[str, int]) -> None:
        """Go on counting from what a checkpoint holds."""
        self.counts.update({of: int(saved.get(of, 0)) for of in self.counts})
        if self.count:
            self._show()

    def _show(self) -> None:
        # Of the step under way: a run that is resumed at its beginning takes it back and shows what
        # it knows.
        self._tracker.replaced(self.count, self._env_steps() + 1)
