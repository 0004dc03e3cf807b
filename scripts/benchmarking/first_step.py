"""Run `python -m mtrl_fairgrad.train WORDS` up to its first update and time its parts.

    python first_step.py SECONDS WORDS…

`startup` runs this script. SECONDS is the value of `time.monotonic` when the command was given. The
evaluation before training is left out. The last line of output is a JSON object, part -> seconds.
"""

import time

BORN = time.monotonic()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

sys.path[0] = str(Path(__file__).resolve().parent.parent.parent)

from mtrl_fairgrad import train  # noqa: E402
from mtrl_fairgrad.training import factory, loop  # noqa: E402
from mtrl_fairgrad.training.trainer import Trainer  # noqa: E402

IMPORTED = time.monotonic()


class FirstUpdateDone(BaseException):
    """Raised after the first update; a BaseException, so that no error handler catches it."""


def main() -> None:
    """Wrap the parts with timers, then run the command."""
    command, words = float(sys.argv[1]), sys.argv[2:]
    spent = {"interpreter": BORN - command, "imports": IMPORTED - BORN}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            started = time.monotonic()
            result = function(*args, **options)
            spent[part] = spent.get(part, 0.0) + time.monotonic() - started
            return result

        return wrapped

    check = train.check_parts

    def checked(*args: Any) -> None:
        check(*args)
        spent["configuration"] = time.monotonic() - IMPORTED

    real_step = loop.step

    def step(trainer: Trainer) -> None:
        part = (
            "first update"
            if trainer.env_steps >= trainer.config.agent.warmup_steps
            else "first step"
        )
        timed(part, real_step)(trainer)
        spent.setdefault("until the first step is done", time.monotonic() - command)
        if trainer.learner.updates:
            raise FirstUpdateDone

    train.check_parts = checked
    factory.make_envs = timed("simulators", factory.make_envs)
    factory.make_learner = timed("agent", factory.make_learner)
    loop.step = step
    Trainer.evaluate_if_due = lambda self: None
    try:
        code = train.main(words)
    except FirstUpdateDone:
        print(json.dumps(spent))
    else:
        sys.exit(code or 1)


if __name__ == "__main__":
    main()
