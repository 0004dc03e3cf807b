"""The model card of exported policies, README.md in their folder.

It is made from their JSON files alone, in the form that model hubs read: YAML with the results,
then text. A README.md that this module has not written is left as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mtrl_fairgrad.runs.policy_description import PolicyDescription, read_description, sizes
from mtrl_fairgrad.utils.atomic_io import write_atomic, writing_remedy
from mtrl_fairgrad.utils.clean_text import clean
from mtrl_fairgrad.utils.safe_files import entries, is_present, read_bytes
from mtrl_fairgrad.utils.text_tables import counted, markdown, markdown_table
from mtrl_fairgrad.utils.validation import ConfigError

NAME = "README.md"
MARK = "# written by mtrl_fairgrad.evaluate --export"
"""Comment in the YAML, by which a card is recognised."""
MAX_BYTES = 2**20


def write_card(folder: Path, licence: str | None = None) -> Path | None:
    """Write the card of all policies in a folder.

    Args:
        folder: existing folder.
        licence: SPDX identifier in lower case, for the hub; None for none.

    Returns:
        the card's path; None if there are no policies, or another README.md.

    Raises:
        OSError: a file cannot be read.
        ConfigError: one of the descriptions is damaged, or the card cannot be written.
    """
    card, policies = folder / NAME, entries(folder, "policy-*.json")
    ours = not is_present(card) or MARK.encode() in read_bytes(card, MAX_BYTES)[:200]
    if not policies or not ours:
        return None
    text = model_card([read_description(path) for path in policies], licence)
    try:
        write_atomic(card, text.encode())
    except OSError as error:
        raise ConfigError(
            f"{card} cannot be written ({error.strerror}): "
            f"{writing_remedy(error, 'give another folder to --export')}."
        ) from error
    return card


def model_card(policies: Sequence[PolicyDescription], licence: str | None = None) -> str:
    """Return the card of one or more policies, seeds of one run as a rule."""
    first = policies[0]
    title = f"{_suite(first)}, {_methods(first)}, {_budget(policies)}"
    parts = [
        f"---\n{MARK}\n{_front_matter(policies, title, licence)}---",
        f"# {markdown(title)}",
        _introduction(policies),
        "## Use",
        _use(first),
        "## Results",
        *_results(policies),
        "## Training",
        _training(policies),
        "## Limits",
        _limits(first),
        "## Files",
        *_files(policies),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(policies: Sequence[PolicyDescription], title: str, licence: str | None) -> str:
    env = _env(policies[0])
    results = [
        {
            "task": {"type": "reinforcement-learning", "name": "reinforcement learning"},
            "dataset": {"type": env, "name": _suite(policies[0])},
            "metrics": [
                {
                    "type": "success_rate",
                    "name": f"success rate, mean over tasks, {_column(policy)}",
                    "value": round(policy["result"]["mean"], 4),
                }
            ],
        }
        for policy in policies
    ]
    data: dict[str, Any] = {"license": licence} if licence else {}
    data |= {
        "library_name": "pytorch",
        "pipeline_tag": "reinforcement-learning",
        "tags": ["multi-task-learning", "soft-actor-critic", "mtrl-fairgrad", env],
        "model-index": [{"name": title, "results": results}],
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def _introduction(policies: Sequence[PolicyDescription]) -> str:
    tasks, (observation, action) = policies[0]["tasks"], sizes(policies[0])
    count = "One policy" if len(policies) == 1 else f"{len(policies)} policies, each"
    return (
        f"{count} for {counted(len(tasks), 'task')} in one program of `torch.export`, which maps "
        f"observations of {observation} numbers to the mode of the policy, actions of {action} "
        "numbers. It needs PyTorch, but not the project that trained it."
    )


def _use(policy: PolicyDescription) -> str:
    observation, action = sizes(policy)
    with_tasks = len(policy["inputs"]) > 1
    lines = [
        "```python",
        "import torch",
        "",
        f"policy = torch.export.load({json.dumps(policy['program']['file'])}).module()",
        f"observations = torch.zeros(1, {observation})  # the JSON has their layout",
        *(["tasks = torch.tensor([0])  # each row's index in the list of tasks"] * with_tasks),
        f"actions = policy(observations{', tasks' * with_tasks})  # [1, {action}]",
        "```",
    ]
    description = Path(policy["program"]["file"]).with_suffix(".json").name
    return "\n".join(lines) + (
        "\n\nThe JSON beside it has the layout of the observations, among them the task's one-hot "
        "identity where there is one, the bounds of the actions and the configuration. With "
        "`mtrl-fairgrad[rl]` installed, this plays every goal again and compares:\n\n"
        f"```console\n$ python -m mtrl_fairgrad.evaluate {clean(description)}\n```\n\n"
        "**Loading a program may run code**: load only files from people you trust."
    )


def _results(policies: Sequence[PolicyDescription]) -> list[str]:
    rows = [["task", *(_column(policy) for policy in policies)]]
    rows += [
        [task, *(_rate(policy["result"]["success"].get(task)) for policy in policies)]
        for task in policies[0]["tasks"]
    ]
    rows.append(["mean", *(f"{policy['result']['mean']:.3f}" for policy in policies)])
    goals = " or ".join(str(n) for n in sorted({policy["result"]["goals"] for policy in policies}))
    protocols = dict.fromkeys(policy["protocol"]["in_words"] for policy in policies)
    return [
        f"Success rates over {goals} goals of each task, each goal played once.",
        "\n".join(markdown_table(rows)),
        f"Protocol: {markdown('; '.join(protocols))}.",
    ]


def _training(policies: Sequence[PolicyDescription]) -> str:
    training: Mapping[str, Any] = policies[0]["training"]
    updates, git = training.get("updates"), training.get("git") or {}
    versions = training.get("versions") or {}
    facts = [
        f"{_budget(policies)} of each task" + (f", {updates:,} updates" if updates else ""),
        f"gradients combined by {_methods(policies[0])}",
        f"seed{'s' * (len(policies) > 1)} " + ", ".join(str(policy["seed"]) for policy in policies),
        "commit " + str(git.get("commit")) if git.get("commit") else "",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    return "\n".join(f"- {markdown(fact)}" for fact in facts if fact)


def _limits(policy: PolicyDescription) -> str:
    env: Mapping[str, Any] = policy["config"].get("env") or {}
    sentences = [
        "A policy in simulation: it has not been tried on a robot.",
        "Its rates hold for the protocol above, and for other goals, horizons, rewards or "
        "simulators they are unknown.",
    ]
    if env.get("suite") != "gymnasium":
        sentences.append(
            "Meta-World's multi-task protocol plays the same goals in training and evaluation: "
            "nothing is said of goals that the policy has not seen."
        )
    return " ".join(sentences)


def _files(policies: Sequence[PolicyDescription]) -> list[str]:
    rows = [["program", "bytes", "SHA-256"]]
    rows += [
        [policy["program"]["file"], f"{policy['program']['bytes']:,}", policy["program"]["sha256"]]
        for policy in policies
    ]
    return ["\n".join(markdown_table(rows, words=True))]


# ---- names ----


def _env(policy: PolicyDescription) -> str:
    env: Mapping[str, Any] = policy["config"].get("env") or {}
    return _one_line(env.get("name") or "unnamed")


def _suite(policy: PolicyDescription) -> str:
    return f"{_env(policy)} ({counted(len(policy['tasks']), 'task')})"


def _methods(policy: PolicyDescription) -> str:
    """Name the method of the critics, and of the actor if it is another."""
    training: Mapping[str, Any] = policy["training"]
    methods: Mapping[str, Any] = training.get("methods") or {}
    return " and ".join(dict.fromkeys(map(_one_line, methods.values()))) or "unknown method"


def _one_line(value: object) -> str:
    """Clean a value of a description for the YAML, where a line could end it."""
    return clean(" ".join(str(value).split()))


def _budget(policies: Sequence[PolicyDescription]) -> str:
    steps = sorted({policy["training"]["env_steps"] for policy in policies})
    return f"{' or '.join(f'{n:,}' for n in steps)} steps"


def _column(policy: PolicyDescription) -> str:
    return f"seed {policy['seed']}"


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.2f}"
