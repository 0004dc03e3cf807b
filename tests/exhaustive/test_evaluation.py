"""Meta-World's scripted experts reach its success rates on MT10; published policies repeat their
published evaluation.
"""

import csv

import pytest
import torch

from mtrl_fairgrad import evaluate
from mtrl_fairgrad.envs.evaluation import all_goals
from mtrl_fairgrad.envs.task_names import MT10
from mtrl_fairgrad.runs.manifest import manifest
from mtrl_fairgrad.runs.run_dir import RunFolder
from tests.support.paths import ROOT
from tests.support.scripted_experts import SEED, SUITE, assert_agrees_with_metaworld


def test_scripted_experts_get_metaworlds_success_rates_on_mt10():
    # Metaworld's own loop takes a second and a half for each goal
    goals = all_goals(SUITE, [SEED])[..., ::4]
    mine = assert_agrees_with_metaworld(MT10, goals, horizon=500, workers=2)
    assert mine.success.mean() > 0.9


@pytest.mark.parametrize("full", [False, True])
def test_a_published_policy_repeats_its_published_evaluation(full, tmp_path):
    """Whether or not its episodes go on after their first success."""
    run = ROOT / "results" / "mt10" / "four_tasks_long" / "ls"
    policy = run / "policies" / "policy-150000-seed7.json"
    words = [] if full else ["--stop-at-success"]
    assert evaluate.main([str(policy), "--out", str(tmp_path), *words]) == 0
    rows = {row.task: row for row in RunFolder.open(run).evaluations() if row.seed == 7}
    with (tmp_path / "evaluation-150000-50-goals.csv").open() as file:
        found = list(csv.DictReader(file))
    assert len(found) == 4
    for row in found:
        published = rows[row["task"]]  # the last one, at 150,000
        assert (published.env_steps, published.return_) == (150_000, None)
        assert float(row["success"]) == published.success
        # The program of one seed rounds other than the agent of three, with which older versions
        # evaluated.
        assert float(row["return_until_success"]) == pytest.approx(
            published.return_until_success, rel=1e-6
        )
        assert bool(row["return"]) == full


@pytest.mark.parametrize("threads", [1, 2])
def test_a_policy_of_stacked_seeds_repeats_every_digit_of_its_run(threads, tmp_path):
    """On the kind of processor that it was evaluated on; another one may round differently."""
    run = ROOT / "results" / "mt10" / "recipe_ten" / "pcgrad"
    if manifest([], "cpu")["processor"] != RunFolder.open(run).manifest["processor"]:
        pytest.skip("evaluated on another kind of processor")
    policy, before = run / "policies" / "policy-80000-seed0.json", torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert evaluate.main([str(policy), "--out", str(tmp_path), "--stop-at-success"]) == 0
    finally:
        torch.set_num_threads(before)
    last = {row.task: row for row in RunFolder.open(run).evaluations() if row.seed == 0}
    with (tmp_path / "evaluation-80000-50-goals.csv").open() as file:
        found = {row["task"]: row for row in csv.DictReader(file)}
    assert found.keys() == last.keys() and len(last) == 10
    for task, row in found.items():
        assert float(row["success"]) == last[task].success
        published = pytest.approx(last[task].return_until_success, rel=1e-9)
        assert float(row["return_until_success"]) == published
