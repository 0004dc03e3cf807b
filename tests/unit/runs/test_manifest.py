"""The manifest: what it tells, and what it keeps to itself."""

import json
import os
import subprocess

import torch

from mtrl_fairgrad.runs import manifest as provenance
from mtrl_fairgrad.runs.manifest import config_sha256, manifest


def test_the_manifest_tells_what_the_numbers_depend_on():
    found = manifest(["alpha=2"], "cpu", {"name": "mt10"})
    assert json.loads(json.dumps(found)) == found
    assert (
        found["overrides"] == ["alpha=2"]
        and found["device"] == "cpu"
        and found["protocol"] == {"name": "mt10"}
    )
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "numpy", "metaworld", "mujoco", "gymnasium"} <= found["versions"].keys()
    assert found["started"].endswith("+00:00") and found["cpus"] == os.cpu_count()


def test_the_manifest_names_no_home_host_or_user(monkeypatch):
    monkeypatch.setenv("HOME", "/srv/people/ada")
    given = [
        "run_dir=/srv/people/ada/runs/a",
        "x=[/home/bob/data,/Users/eve]",
        "y=/srv/people/adaptive",
    ]
    found = manifest(given, "cpu")
    assert found["overrides"] == ["run_dir=~/runs/a", "x=[~/data,~]", "y=/srv/people/adaptive"]
    assert os.uname().nodename not in json.dumps(
        {**found, "platform": found["platform"].split("-")}
    )


def test_the_manifest_does_without_git(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert manifest([], "cpu")["git"] is None


def test_commit_and_dirty_flag_come_from_the_checkout(monkeypatch, tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    (tmp_path / "package" / "runs").mkdir(parents=True)
    (tmp_path / "package" / "runs" / "manifest.py").write_text("")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "package" / "runs" / "manifest.py"))
    assert manifest([], "cpu")["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "package" / "runs" / "manifest.py").write_text("changed")
    assert manifest([], "cpu")["git"] == {"commit": commit, "dirty": True}


def test_the_digest_of_a_configuration_minds_everything_but_steps():
    config = {"steps": 5, "env": {"name": "mt10", "tasks": ["a", "b"]}, "rate": 3e-4}
    same = {"rate": 3e-4, "env": {"tasks": ["a", "b"], "name": "mt10"}, "steps": 9}
    assert config_sha256(config) == config_sha256(same)
    others = [
        {**config, "rate": 4e-4},
        {**config, "env": {"name": "mt10", "tasks": ["b", "a"]}},
        {"steps": 5},
    ]
    assert len({config_sha256(each) for each in [config, *others]}) == 4
