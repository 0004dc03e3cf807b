"""Run folders as an older version wrote them."""

import json

import yaml

from mtrl_fairgrad.config.older_runs import VALUES, method_values
from mtrl_fairgrad.runs.manifest import config_sha256


def without_newer_options(config):
    """A configuration without the options that older versions lack."""
    older = {
        key: dict(value) if isinstance(value, dict) else value for key, value in config.items()
    }
    newer = [*VALUES, *(f"method.{name}" for name in method_values(older["method"]))]
    for group, _, name in (key.partition(".") for key in newer):
        older[group].pop(name, None)
    return older


def make_older(folder):
    """Rewrite the configuration and the manifest of a run as those of an older version."""
    path = folder / "config.yaml"
    config = without_newer_options(yaml.safe_load(path.read_text()))
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config_sha256"] = config_sha256(config)
    manifest["overrides"] = [
        word for word in manifest["overrides"] if word.partition("=")[0] not in VALUES
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
