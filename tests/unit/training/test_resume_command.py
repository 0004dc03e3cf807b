"""The printed command resumes the run when it is pasted into a shell."""

import shlex

import pytest

from mtrl_fairgrad import train
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.resume_command import resume_command

PATHS = [
    "runs/mine",
    "a run",
    "mt10,method=ls",
    "it's",
    "[1]",
    "null",
    "1e5",
    "(a)",
    "x#y",
    "back\\slash",
    "end\\",
    "ünï",
]


@pytest.mark.parametrize("name", PATHS)
def test_any_path_survives_shell_and_hydra(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = {"overrides": ["env=mt10", "progress=false"]}
    folder = RunFolder.create(name, {"steps": 9, "seeds": [0]}, manifest)
    python, module, command, *words = shlex.split(resume_command(folder, 9, ["progress=false"]))
    assert (python, module, command) == ("python", "-m", "mtrl_fairgrad.train")
    # `train` finds the folder by the same word that Hydra parses.
    assert train._with_stored_overrides(words) == [
        "env=mt10",
        "progress=false",
        "steps=9",
        *words,
    ]


def test_only_options_that_the_run_does_not_store_are_given_again(tmp_path):
    stored = ["env.workers=1", "method=ls", "steps=10", "run_dir=x"]
    folder = RunFolder.create(tmp_path / "r", {"steps": 10}, {"overrides": stored})
    resumed = [*stored, "steps=10", f"resume={folder.path}", "steps=20", "env.workers=2"]
    assert resume_command(folder, 10, stored).endswith(f"train resume={folder.path}")
    command = resume_command(folder, 20, [*resumed, "progress=false"])
    assert command.endswith(f"train resume={folder.path} steps=20 env.workers=2 progress=false")
