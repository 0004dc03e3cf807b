"""Run folders as an older version wrote them."""

import csv
import json

import yaml

from mtrl_fairgrad.config.older_runs import RETYPED, VALUES, method_values
from mtrl_fairgrad.runs.checkpoint.index import Index
from mtrl_fairgrad.runs.manifest import config_sha256
from mtrl_fairgrad.utils.atomic_io import content_of, prefix_of
from mtrl_fairgrad.utils.text_tables import csv_text


def without_newer_options(config):
    """A configuration without the options that older versions lack."""
    older = {
        key: dict(value) if isinstance(value, dict) else value for key, value in config.items()
    }
    newer = [*VALUES, *(f"method.{name}" for name in method_values(older["method"]))]
    for group, _, name in (key.rpartition(".") for key in newer):
        (older[group] if group else older).pop(name, None)
    return older | dict.fromkeys(RETYPED, False)


def make_older(folder):
    """Rewrite configuration, manifest and evaluations of a run as those of an older version.

    Its checkpoints are made to agree with what they recorded of these files.
    """
    before = (folder / "evaluations.csv").read_bytes()
    path = folder / "config.yaml"
    config = without_newer_options(yaml.safe_load(path.read_text()))
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config_sha256"] = config_sha256(config)
    manifest["overrides"] = [
        word for word in manifest["overrides"] if word.partition("=")[0] not in VALUES
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    older_table(folder, config["env"]["suite"])
    lines = (folder / "evaluations.csv").read_bytes().splitlines(keepends=True)
    for checkpoint in folder.glob("checkpoints/0*"):
        index = Index.read(checkpoint)
        written = before[: index.run_files["evaluations.csv"].bytes].count(b"\n")
        size = sum(map(len, lines[:written]))
        index.run_files["manifest.json"] = content_of(folder / "manifest.json")
        index.run_files["evaluations.csv"] = prefix_of(folder / "evaluations.csv", size)
        (checkpoint / "index.json").write_bytes(index.encode())


def older_table(folder, suite):
    """Rewrite evaluations.csv in the format of older versions."""
    path = folder / "evaluations.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = "return" if suite == "gymnasium" else "return_until_success"
    first = ("env_steps", "seed", "task", "episodes", "success")
    lines = [[*first, "return"], *([*(row[key] for key in first), row[column]] for row in rows)]
    path.write_text(csv_text(lines))
