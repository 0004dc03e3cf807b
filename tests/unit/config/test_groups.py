"""The folder of the Hydra groups, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtrl_fairgrad.config import groups
from mtrl_fairgrad.utils.validation import ConfigError


def _configs(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    return folder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(groups, "PACKAGE", tmp_path / "mtrl_fairgrad")
    return tmp_path / "mtrl_fairgrad"


def test_this_checkout_uses_its_own_configs():
    assert groups.config_dir() == Path(__file__).resolve().parents[3] / "configs"


def test_an_installed_package_ignores_the_configs_of_another_distribution(package: Path):
    _configs(package.parent / "configs")
    own = _configs(package / "configs")
    assert groups.config_dir() == own


def test_a_checkout_has_its_configs_next_to_the_package(package: Path):
    expected = _configs(package.parent / "configs")
    assert groups.config_dir() == expected


def test_missing_configs_are_one_sentence(package: Path):
    with pytest.raises(ConfigError):
        groups.config_dir()
