"""Time from the command to the first training step, by part, in processes of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .settings import Row, Settings

SECTION = "startup"
SCRIPT = Path(__file__).with_name("first_step.py")
TINY_RUN = (
    "env.tasks=[reach-v3]",
    "env.workers=0",
    "eval.workers=0",
    "agent.width=8",
    "agent.batch_size=8",
    "agent.buffer_size=9",
)


def measure(settings: Settings) -> Iterator[Row]:
    """Yield medians over a few starts of MT10, by default settings but a warm-up of one step."""
    words = [
        "agent.warmup_steps=1",
        "progress=false",
        f"device={settings.device}",
        "method.solver=newton",
    ]
    words += TINY_RUN if settings.quick else ()
    starts = [_start(words) for _ in range(max(1, settings.few // 2))]
    medians = {part: statistics.median(start[part] for start in starts) for part in starts[0]}
    for part, seconds in medians.items():
        yield Row(SECTION, part, seconds, "s")
    parts = ("interpreter", "imports", "configuration", "simulators", "agent", "first step")
    rest = medians["until the first step is done"] - sum(medians[part] for part in parts)
    yield Row(SECTION, "rest", rest, "s")


def _start(words: list[str]) -> dict[str, float]:
    """Start a training; return the seconds of each part.

    Raises:
        SystemExit: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            str(SCRIPT),
            str(time.monotonic()),
            *words,
            f"run_dir={folder}/run",
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the training failed with exit code {done.returncode}; see above.")
    return json.loads(done.stdout.splitlines()[-1])
