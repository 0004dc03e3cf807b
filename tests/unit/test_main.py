"""Every command under one name."""

import tomllib
from importlib import import_module

import pytest

from mtrl_fairgrad import __version__
from mtrl_fairgrad.__main__ import COMMANDS, main
from mtrl_fairgrad.utils import extras
from tests.support.paths import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_each_command_has_a_script_of_its_own_too():
    alone = {name.removeprefix("mtrl-"): place for name, place in SCRIPTS.items()}
    assert alone.pop("fairgrad") == "mtrl_fairgrad.__main__:main"  # as the package, for pipx run
    assert alone == {name: f"mtrl_fairgrad.{module}:main" for name, (module, _) in COMMANDS.items()}


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_lists_every_command(arguments, capsys):
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in COMMANDS)


def test_the_rest_of_the_line_is_the_commands(monkeypatch):
    given = []
    report = import_module("mtrl_fairgrad.report")
    monkeypatch.setattr(report, "main", lambda words: given.append(words) or 3)
    assert main(["report", "a", "--out", "b"]) == 3 and given == [["a", "--out", "b"]]


def test_a_wrong_command_and_the_version(capsys):
    assert main(["trian"]) == 2
    assert "'trian'" in capsys.readouterr().err
    assert main(["--version"]) == 0 and __version__ in capsys.readouterr().out


def test_without_its_extra_a_command_is_one_line(monkeypatch, capsys):
    def missing(name):
        raise extras.MissingExtraError("gymnasium is not installed.")

    monkeypatch.setattr("mtrl_fairgrad.__main__.import_module", missing)
    assert main(["train"]) == 2
    assert capsys.readouterr().err == "error: gymnasium is not installed.\n"
