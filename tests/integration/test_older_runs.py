"""Runs of versions that lacked an option train on as they began."""

import pytest

from mtrl_fairgrad import report, train, verify
from mtrl_fairgrad.config.older_runs import VALUES
from mtrl_fairgrad.runs.evaluation_table import OLDER_COLUMNS
from tests.support.older_runs import make_older
from tests.support.tiny_runs import (
    POINT_MASS,
    POINT_MASS_ONE,
    assert_same_checkpoint,
    rows,
)

RUN = [*POINT_MASS, *POINT_MASS_ONE, "agent=mhsac", "method=ls", "steps=40"]
OLDER = [f"{key}={value}" for key, value in VALUES.items()]


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A run of 40 steps, and one that an older version left at 20."""
    home = tmp_path_factory.mktemp("runs")
    whole, left = home / "whole", home / "left"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "finish", lambda folder: None)
        assert train.main([*RUN, *OLDER, f"run_dir={whole}"]) == 0
        assert train.main([*RUN, *OLDER, "steps=20", f"run_dir={left}"]) == 0
    make_older(left)
    return whole, left


def test_a_run_without_an_option_resumes_bit_for_bit_with_the_older_value(older, capsys):
    whole, left = older
    assert train.main([f"resume={left}", "steps=40", "agent.own_gradients=mean"]) == 2
    assert "agent.own_gradients (plain before, mean now)" in capsys.readouterr().err
    assert train.main([f"resume={left}", "steps=40"]) == 0
    assert_same_checkpoint(whole, left)
    kept = {name: rows(whole)[-1][name] for name in OLDER_COLUMNS}
    assert rows(left)[-1] == kept, "the table keeps its format"
    assert verify.main([str(left)]) == 0 and report.main([str(left)]) == 0
    assert list(rows(left)[-1]) == list(OLDER_COLUMNS)
    assert "own_gradients" not in (left / "config.yaml").read_text(), "the record is not rewritten"
