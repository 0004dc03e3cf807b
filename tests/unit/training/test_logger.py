"""Cosines, the note on an unsolved equation, and what is logged of an update."""

import pytest
import torch

from mtrl_fairgrad.training.logger import RESIDUAL_WINDOW, Logger, cosines
from tests.support.tiny_runs import scalars


def test_cosines_are_those_of_all_pairs():
    rows = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]).double()
    torch.testing.assert_close(cosines(rows @ rows.mT), torch.tensor([0.0, -1.0, 0.0]).double())


def test_a_vanished_gradient_has_cosine_zero():
    rows = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert cosines(rows @ rows.mT).tolist() == [0.0]


@pytest.fixture
def logger(tmp_path, monkeypatch):
    messages = []
    writer = Logger(
        tmp_path,
        ["a", "b"],
        10,
        0,
        resumed=False,
        progress=False,
        alternative="method.solver=newton solves it.",
    )
    monkeypatch.setattr(writer, "log", messages.append)
    yield writer, messages
    writer.close()


def log(logger, residual, times):
    for step in range(times):
        logger.log_update({"actor/residual": torch.tensor([residual])}, step, 1.0)


def test_an_unsolved_equation_is_mentioned_once_with_number_and_alternative(logger):
    writer, messages = logger
    log(writer, 0.7, RESIDUAL_WINDOW - 1)
    assert messages == []
    log(writer, 0.7, 50)
    [note] = messages
    assert "actor" in note and "0.7" in note and "method.solver=newton" in note and "\n" not in note


def test_other_methods_than_fairgrad_may_leave_a_residual(tmp_path, monkeypatch):
    writer, messages = (
        Logger(tmp_path, ["a"], 10, 0, resumed=False, progress=False, alternative=None),
        [],
    )
    monkeypatch.setattr(writer, "log", messages.append)
    log(writer, 0.7, RESIDUAL_WINDOW + 1)
    writer.close()
    assert messages == []


def test_whatever_a_method_reports_is_logged(logger, tmp_path):
    writer, _ = logger
    entries = {
        "critic/converged": torch.tensor([True, False]),
        "critic/active": torch.tensor([[True, False], [True, True]]),
        "critic/rounds": torch.tensor([3, 4]),
        "critic/other": torch.arange(12.0).view(2, 3, 2),
        "critic/share": torch.tensor([0.5, 1.0], dtype=torch.bfloat16),
    }
    writer.log_update(entries, 5, 1.0)
    writer.flush()
    values = {tag: entry[0][1] for tag, entry in scalars(tmp_path).items()}
    assert values.pop("speed/updates_per_second") == 1.0
    assert values == {
        "critic/converged": 0.5,
        "critic/active/a": 1.0,
        "critic/active/b": 0.5,
        "critic/rounds": 3.5,
        "critic/other": 5.5,
        "critic/share": 0.75,
    }


def test_a_solved_equation_and_a_few_outliers_are_not_mentioned(logger):
    writer, messages = logger
    for _ in range(5):
        log(writer, 1e-6, RESIDUAL_WINDOW)
        log(writer, 3.0, RESIDUAL_WINDOW // 3)
    assert messages == []
