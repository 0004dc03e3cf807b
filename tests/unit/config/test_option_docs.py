"""Every option is explained, in --help and in the documentation, from one place."""

import importlib.util
import re

import pytest

from mtrl_fairgrad import train
from mtrl_fairgrad.config.groups import config_group
from mtrl_fairgrad.config.option_docs import choice_options, options_of
from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.supervised import __main__ as supervised
from mtrl_fairgrad.supervised.config import SupervisedConfig
from tests.support.paths import ROOT


@pytest.mark.parametrize("defaults", [Config(), SupervisedConfig()], ids=["train", "supervised"])
def test_every_option_is_explained_in_a_sentence(defaults):
    for option in options_of(defaults):
        assert re.fullmatch(r"\S.*[.]", option.help), option.key


@pytest.mark.parametrize("group", ["method", "benchmark"])
def test_every_option_of_a_method_or_benchmark_is_explained_in_its_file(group):
    for name in config_group(group):
        for option in choice_options(group, name):
            assert re.fullmatch(r"\S.*[.]", option.help), option.key


def test_the_documentation_is_current():
    path = ROOT / "scripts" / "write_configuration_docs.py"
    spec = importlib.util.spec_from_file_location("write_configuration_docs", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == script.text(), f"run python {path.relative_to(ROOT)}"


@pytest.mark.parametrize(
    ("command", "schema", "group"),
    [(train, Config, "method"), (supervised, SupervisedConfig, "benchmark")],
    ids=["train", "supervised"],
)
def test_help_shows_every_option_with_its_explanation(command, schema, group, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    for option in options_of(schema()):
        key = f"{option.key}.name" if option.is_group else option.key
        assert f"  {key}=" in printed and option.help in words, key
    chosen = getattr(schema(), group)["name"]
    for option in choice_options(group, chosen):
        assert f"  {option.key}=" in printed and option.help in words, option.key
    assert max(map(len, printed.splitlines()[30:])) <= 100


def test_help_shows_the_values_of_the_command_line_as_given(capsys):
    words = ["method=pcgrad", "agent.width=17", "run_dir=a$b", "steps=${nothing}"]
    with pytest.raises(SystemExit, match="0"):
        train.main(["--help", *words])
    printed = capsys.readouterr().out
    assert "  method.reduction=sum\n" in printed and "  agent.width=17\n" in printed
    assert "  run_dir=a$b\n" in printed and "  steps=${nothing}\n" in printed


def test_help_lists_the_groups_that_a_command_has(capsys):
    for command, own, foreign in (
        (train, "agent", "benchmark"),
        (supervised, "benchmark", "agent"),
    ):
        with pytest.raises(SystemExit, match="0"):
            command.main(["--help"])
        listed = capsys.readouterr().out.partition("== Options")[0]
        groups = re.findall(r"^([\w/]+): ", listed, re.M)
        assert {own, "method", "convention", "hydra/launcher"} <= set(groups)
        assert not {foreign, "preset_method", "preset_env"} & set(groups)
        assert f"{own}: {', '.join(config_group(own))}\n" in listed
