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
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import metaworld
import numpy as np
import torch
from numpy.typing import NDArray

FORMAT = "mtrl-fairgrad policy 1"
FIX = "give the .json file that evaluate --export wrote"


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
    if options.goals < 1:
        parser.error(f"--goals {options.goals} is not allowed: give an integer of at least 1.")
    description = read_description(options.policy)
    chosen = options.tasks.split(",") if options.tasks else description["tasks"]
    if unknown := [task for task in chosen if task not in description["tasks"]]:
        allowed = ", ".join(description["tasks"])
        parser.error(f"--tasks {','.join(unknown)}: the policy plays {allowed}.")
    program = load(options.policy, description)
    rates = []
    for place, task in enumerate(description["tasks"]):
        if task not in chosen:
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


def read_description(path: Path) -> dict[str, Any]:
    """Read the policy's .json file; exit with one sentence if it is missing or another file."""
    try:
        description = json.loads(path.read_bytes())
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise ValueError(f"its format is not “{FORMAT}”")
        if description["protocol"]["env"] == "gymnasium":
            raise ValueError("its tasks are not Meta-World's")
    except OSError as error:
        sys.exit(f"error: {path} cannot be read ({error.strerror}): {FIX}.")
    except ValueError as error:  # not UTF-8, not JSON, or not a description
        reason = " ".join(str(error).split())
        sys.exit(f"error: {path} cannot be played ({reason}): {FIX}.")
    return description


def load(path: Path, description: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """Load the policy's program; exit with one sentence if it is missing or corrupt."""
    program = path.with_name(description["program"]["file"])
    try:
        content = program.read_bytes()
    except OSError as error:
        sys.exit(
            f"error: {program} cannot be read ({error.strerror}): copy it next to {path.name}."
        )
    if hashlib.sha256(content).hexdigest() != description["program"]["sha256"]:
        sys.exit(f"error: {program} is corrupt (SHA-256 mismatch): copy it again.")
    try:
        return torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # PyTorch raises many types
        reason = " ".join(str(error).split())[:200]
        sys.exit(
            f"error: PyTorch {torch.__version__} cannot load {program} ({reason}): use the version "
            "under exported_with, or a later one."
        )


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
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as in `… | head`; what is flushed at exit goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
