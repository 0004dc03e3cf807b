"""A missing extra is one sentence with the install line."""

import runpy
import sys

import pytest

from mtrl_fairgrad.utils import extras
from mtrl_fairgrad.utils.validation import ConfigError

COMMANDS = ("train", "evaluate", "report", "verify", "search", "supervised.__main__")


@pytest.fixture
def without_gymnasium(monkeypatch):
    installed = extras.find_spec
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "gymnasium" else installed(name)
    )


def test_an_installed_module_passes():
    extras.require("numpy", "rl")


def test_a_missing_module_names_its_extra():
    with pytest.raises(extras.MissingExtraError) as raised:
        extras.require("no_such_module", "video")
    assert isinstance(raised.value, ImportError) and isinstance(raised.value, ConfigError)
    assert "no_such_module" in str(raised.value)
    assert 'pip install "mtrl-fairgrad[video]"' in str(raised.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_its_extra_exits_with_the_install_line(
    command, without_gymnasium, capsys
):
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"mtrl_fairgrad.{command}", run_name="__main__")
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1 and 'pip install "mtrl-fairgrad[rl]"' in error


def test_a_console_script_without_its_extra_exits_too(without_gymnasium, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mtrl-train"])
    with pytest.raises(SystemExit) as ended:
        extras.require_for_command("mtrl_fairgrad.train")
    assert ended.value.code == 2 and "mtrl-fairgrad[rl]" in capsys.readouterr().err


def test_the_import_of_a_command_without_its_extra_is_an_import_error(without_gymnasium):
    with pytest.raises(ImportError, match="gymnasium"):
        extras.require_for_command("mtrl_fairgrad.train")
