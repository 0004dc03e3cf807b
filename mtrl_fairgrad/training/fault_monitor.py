"""What goes wrong in the updates of a run: told when it is new, kept in its folder, and when it
ends the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mtrl_fairgrad.config.guard import COUNT, STOP
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.fault_log import NAME, Fault, encoded, listed, sentence, together
from mtrl_fairgrad.runs.run_dir import RunFolder, write_atomic
from mtrl_fairgrad.training.learner import Learner

QUIET = ("unsolved", COUNT)
"""Condition and answer that are told at the end only: the tracker watches how far from solved
equations are.
"""


class Watching:
    """Looks at what the guard of a run's agent counts.

    Args:
        config: validated.
        tasks: names, in the order of the task axis.
        learner: whose agent it is; what it has counted by now was told before.
        folder: of the run.
        say: shows a line.
    """

    def __init__(
        self,
        config: Config,
        tasks: Sequence[str],
        learner: Learner,
        folder: RunFolder,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._tasks, self._learner, self._folder, self._say = (
            config,
            tasks,
            learner,
            folder,
            say,
        )
        self._told = {_kind(one) for one in self.faults()}
        self._places = 0
        """How many conditions of tasks of seeds had ever held at the last look."""

    def look(self, env_steps: int) -> str | None:
        """Tell what is new; the reason why nothing learns any more, if so."""
        found = self._learner.agent.faults()
        places = int((found.first >= 0).sum())
        if places == self._places:
            return None
        self._places = places
        faults = self.faults()
        self._announce([one for one in faults if _kind(one) not in self._told], env_steps)
        if not bool(found.stopped.all()):
            return None
        self.save()
        return "; ".join(sentence(group) for group in together(faults) if group[0].answer == STOP)

    def _announce(self, new: Sequence[Fault], env_steps: int) -> None:
        self._told |= {_kind(one) for one in new}
        for group in together(new):
            one = group[0]
            if (one.condition, one.answer) != QUIET:
                again = "" if one.answer == STOP else "; further ones are counted in silence"
                self._say(f"warning: by env_steps {env_steps}: {sentence(group)}{again}")

    def faults(self) -> list[Fault]:
        """All so far."""
        counts, first, _ = (found.tolist() for found in self._learner.agent.faults())
        guard, seeds = self._config.guard, self._config.seeds
        return listed(counts, first, self._learner.updates, seeds, self._tasks, guard)

    def save(self) -> None:
        """Leave them in the run's folder."""
        write_atomic(self._folder.path / NAME, encoded(self.faults()))

    def sum_up(self) -> None:
        """Say all there were."""
        for group in together(self.faults()):
            self._say(f"faults: {sentence(group)}")


def _kind(fault: Fault) -> tuple[str, str, int, str]:
    return fault.network, fault.condition, fault.seed, fault.task
