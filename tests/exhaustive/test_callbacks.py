"""Meta-World runs with callbacks that meddle are those without, bit for bit."""

import pytest

import mtrl_fairgrad
from tests.support.meddling_callback import MeddlingCallback
from tests.support.tiny_runs import TINY, assert_same_checkpoint

pytestmark = pytest.mark.exhaustive


@pytest.mark.parametrize("words", [["env.fast=true"], ["env.fast=false"], ["env.workers=2"]])
def test_metaworld_trains_the_same_with_callbacks(words, tmp_path, no_reports):
    alone = [*TINY, *words, f"run_dir={tmp_path / 'alone'}"]
    assert mtrl_fairgrad.train.main(alone) == 0
    callback = MeddlingCallback()
    run = mtrl_fairgrad.train(*TINY, *words, run_dir=tmp_path / "told", callbacks=[callback])
    assert all(callback.events.values())
    assert_same_checkpoint(tmp_path / "alone", run.path)
    tables = [(path / "evaluations.csv").read_bytes() for path in (tmp_path / "alone", run.path)]
    assert tables[0] == tables[1]
