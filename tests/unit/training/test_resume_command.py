"""The printed command resumes the run when it is pasted into a shell."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mtrl_fairgrad import train
from mtrl_fairgrad.cli.override_filter import filter_overrides, path_value, quote_paths
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.resume_command import resume_command
from mtrl_fairgrad.utils.arguments import Parser, command_line, override

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
    "here/ünï",
    "ü , [ # ; ~ { '",
    "a$b",
    "a${b}",
    "a\\${oc.env:HOME}",
    "$(true)",
    "-h",
]


@pytest.mark.parametrize("name", PATHS)
def test_any_path_survives_shell_and_hydra(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = {"overrides": ["env=mt10", "progress=false"]}
    folder = RunFolder.create(name, {"steps": 9, "seeds": [0]}, manifest)
    python, module, command, *words = shlex.split(resume_command(folder, 9, ["progress=false"]))
    assert (python, module, command) == ("python", "-m", "mtrl_fairgrad.train")
    # `train` finds the folder by the same word that Hydra parses.
    assert train.with_stored_overrides(words) == [
        "env=mt10",
        "progress=false",
        "steps=9",
        *words,
    ]
    composed = OmegaConf.create({"resume": OverridesParser.create().parse_override(*words).value()})
    assert composed.resume == name
    # A report's parser takes the folder for a path, too.
    *_, word = shlex.split(command_line("report", folder.path))
    assert Parser().parse_args([]) and not word.startswith("-") and Path(word) == folder.path


@pytest.mark.parametrize("key", ["run_dir", "resume"])
def test_a_path_that_one_option_takes_the_other_takes_too(key):
    for name in PATHS:
        word = override(key, name)
        assert filter_overrides(quote_paths([word])) == [word] and path_value(word) == name


@pytest.mark.parametrize("name", ["ünï", "here/ünï", "it's", "x#y", "a;b", "~x", "a{b", "$(true)"])
@pytest.mark.parametrize("key", ["run_dir", "resume"])
def test_a_path_that_the_shell_completed_needs_no_quotes_of_hydra(key, name):
    assert quote_paths([f"{key}={name}"]) == [override(key, name)]
    assert quote_paths([f"method={name}"]) == [f"method={name}"]


def test_where_a_run_was_is_no_obstacle_to_resuming_it(tmp_path):
    stored = ["run_dir='a${oc.env:HOME}'", "steps=9"]
    folder = RunFolder.create(tmp_path / "r", {"steps": 9, "seeds": [0]}, {"overrides": stored})
    resume = override("resume", folder.path)
    assert train.with_stored_overrides([resume]) == ["steps=9", "steps=9", resume]


def test_a_reference_to_no_option_is_one_sentence(tmp_path, capsys):
    assert train.main([f"run_dir='{tmp_path}/${{nothing}}'", "env=mt1"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def test_only_options_that_the_run_does_not_store_are_given_again(tmp_path):
    stored = ["env.workers=1", "method=ls", "steps=10", "run_dir=x"]
    folder = RunFolder.create(tmp_path / "r", {"steps": 10}, {"overrides": stored})
    resumed = [*stored, "steps=10", f"resume={folder.path}", "steps=20", "env.workers=2"]
    assert resume_command(folder, 10, stored).endswith(f"train resume={folder.path}")
    command = resume_command(folder, 20, [*resumed, "progress=false"])
    assert command.endswith(f"train resume={folder.path} steps=20 env.workers=2 progress=false")
