"""Run an exported policy in Meta-World and print its success rates.

    python drive_exported_policy.py policy-2000000-seed0.json [--goals N] [--tasks A,B]

`python -m mtrl_fairgrad.evaluate RUN --export` writes such policies. This script needs torch, numpy
and metaworld, and nothing of mtrl_fairgrad: copy it as an example. Load only policies whose author
you trust, because loading a torch.export file may run code; the checksum detects corruption only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import metaworld
import numpy as np
import torch
from numpy.typing import NDArray


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "policy", type=Path, help="the .json file; its .pt2 file is in the same folder"
    )
    parser.add_argument(
        "--goals", type=int, default=50, help="number of goals of each task (default: all 50)"
    )
    parser.add_argument("--tasks", help="some of the policy's tasks (default: all)")
    options = parser.parse_args(arguments)
    description = json.loads(options.policy.read_bytes())
    program = load(options.policy, description)
    rates = []
    for place, task in enumerate(description["tasks"]):
        if options.tasks and task not in options.tasks.split(","):
            continue
        successes = play(program, description, place, options.goals)
        rates.append(np.mean(successes))
        stated = description["result"]
        note = (
            f"  (stated: {stated['success'][task]:.2f})"
            if stated["goals"] == len(successes)
            else ""
        )
        print(f"{task:<28} {rates[-1]:.2f}{note}", flush=True)
    print(f"{'mean':<28} {np.mean(rates):.3f}")
    return 0


def load(path: Path, description: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """Load the policy's program; exit if its checksum is wrong."""
    content = path.with_name(description["program"]["file"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != description["program"]["sha256"]:
        sys.exit(
            f"error: {description['program']['file']} is corrupt (SHA-256 mismatch): copy it again."
        )
    return torch.export.load(io.BytesIO(content)).module()


def play(
    program: Callable[..., torch.Tensor], description: dict[str, Any], place: int, goals: int
) -> list[bool]:
    """Play one episode on each of a task's first goals; return the successes.

    The goals are those of the policy's seed.

    Args:
        program: the policy.
        description: the content of its .json file.
        place: index of the task among the policy's tasks.
        goals: number of goals.
    """
    task, protocol = description["tasks"][place], description["protocol"]
    benchmark = metaworld.MT1(task, seed=description["seed"])
    environment = benchmark.train_classes[task](reward_function_version=protocol["reward_version"])
    successes = []
    frozen = protocol.get("frozen_goals", {}).get(task)
    for goal in (
        benchmark.train_tasks[:goals] if frozen is None else [benchmark.train_tasks[frozen]]
    ):
        environment.set_task(goal)
        observation, _ = environment.reset()
        success = False
        for _ in range(protocol["horizon"]):
            action = act(program, description, place, observation)
            observation, _, _, _, info = environment.step(action)
            success = info["success"] == 1.0
            if success:
                break
        successes.append(success)
    environment.close()
    return successes


def act(
    program: Callable[..., torch.Tensor],
    description: dict[str, Any],
    place: int,
    observation: NDArray[Any],
) -> NDArray[np.float32]:
    """Return the action `[A]` for one of Meta-World's observations `[39]`.

    The layout in the description selects what the policy sees.
    """
    one_hot = np.eye(len(description["tasks"]))[place]
    parts = [
        observation[slice(*part["metaworld"])] if part["metaworld"] else one_hot
        for part in description["inputs"][0]["layout"]
    ]
    rows = torch.from_numpy(np.concatenate(parts).astype(np.float32)).unsqueeze(0)
    inputs = (rows, torch.tensor([place]))[: len(description["inputs"])]
    with torch.no_grad():
        return program(*inputs)[0].numpy()


if __name__ == "__main__":
    sys.exit(main())
