"""The search for the α of a training: its rounds, its choice, and that it goes on where it was
stopped.
"""

import csv

import pytest

from mtrl_fairgrad import search, train
from mtrl_fairgrad.utils.arguments import override
from tests.support.fabricated_runs import FAIRGRAD
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_TASKS


@pytest.fixture
def trained(make, tmp_path, monkeypatch):
    """The α of each sweep that a search asks for; runs are made up, best at α = 2.2."""
    rounds, exit_codes = [], {}

    def sweep(arguments):
        assert arguments[0] == "--multirun"
        assert override("hydra.sweep.dir", tmp_path / "alpha") in arguments
        [values] = [word.partition("=")[2] for word in arguments if word.startswith("alpha=")]
        rounds.append(values)
        for value in map(float, values.split(",")):
            name = f"alpha/alpha={value:g}"
            if not (tmp_path / name).exists():
                at_end = [[max(0.0, 0.9 - abs(value - 2.2) / 4 - 0.01 * s)] * 3 for s in (0, 1)]
                method = {**FAIRGRAD, "alpha": value}
                make(
                    name,
                    {0: [[0.0] * 3] * 2, 1000: at_end},
                    tasks=("a-v3", "b-v3", "c-v3"),
                    method=method,
                )
        return exit_codes.get(len(rounds), 0)

    monkeypatch.setattr(train, "main", sweep)
    return rounds, exit_codes


def words(tmp_path, *more):
    return [f"run_dir={tmp_path / 'alpha'}", "seeds=[0,1]", *more]


def test_rounds_go_on_until_the_best_has_its_neighbours(trained, tmp_path, capsys):
    rounds, _ = trained
    assert search.main(words(tmp_path, "search.radius=0.2")) == 0
    assert rounds == ["1,2,5,10", "1.9,2.1,1.8,2.2", "2.3,2.4"]
    with (tmp_path / "alpha" / "search.csv").open() as file:
        found = {float(row["alpha"]): row for row in csv.DictReader(file)}
    assert list(found) == sorted(found) and len(found) == 10
    assert [alpha for alpha, row in found.items() if row["best"] == "1"] == [2.2]
    assert float(found[2.2]["final"]) == pytest.approx(0.895) and found[2.2]["seeds"] == "2"
    assert float(found[2.2]["final_stderr"]) == pytest.approx(0.005)
    output = capsys.readouterr().out
    assert "α=2.2    final success 0.895 ± 0.005  best" in output
    assert "python -m mtrl_fairgrad.train 'seeds=[0,1]' alpha=2.2" in output


def test_what_does_not_finish_stops_the_search_and_the_same_command_goes_on(
    trained, tmp_path, capsys
):
    rounds, exit_codes = trained
    exit_codes[2] = 143
    assert search.main(words(tmp_path)) == 143
    assert len(rounds) == 2 and "repeat the command" in capsys.readouterr().err
    assert search.main(words(tmp_path)) == 0
    assert rounds[2:4] == rounds[:2]


def test_runs_that_differ_in_more_than_seeds_are_refused(trained, make, tmp_path, capsys):
    course = {1000: [[0.5] * 3] * 2}
    make("alpha/other", course, seeds=(5, 6), method={**FAIRGRAD, "alpha": 2.0}, agent={"width": 8})
    assert search.main(words(tmp_path)) == 2
    assert "both have α=2 but differ in more than seeds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("alpha=2", "alpha=2 was given"),
        ("resume=auto", "give run_dir=FOLDER"),
        ("hydra.sweep.dir=x", "give run_dir=FOLDER"),
        ("search.coarse=[1,1]", "search.coarse=[1.0, 1.0]"),
        ("search.corse=[1]", "corse"),
        ("search.step=small", "step"),
        ("method=ls", "method=ls has no α"),
        ("method=fairgrad,pcgrad", "train method=pcgrad"),
        ("agent=stl", "agent=stl has no α"),
    ],
)
def test_contradictions_end_in_one_sentence(trained, tmp_path, word, said, capsys):
    assert search.main(words(tmp_path, word)) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert trained[0] == []


def test_a_real_search(tmp_path, capsys):
    far = f"env.tasks=[{POINT_MASS_TASKS[1]}]"  # out of reach, so that success stays 0
    short = [
        *POINT_MASS,
        far,
        "env.horizon=10",
        "steps=20",
        "eval.every=20",
        "agent.warmup_steps=5",
    ]
    command = [*short, f"run_dir={tmp_path / 'alpha'}", "search.coarse=[1,2]", "search.radius=0.1"]
    assert search.main(command) == 0
    output = capsys.readouterr().out
    rounds = [line for line in output.splitlines() if line.startswith("α: ")]
    assert rounds == ["α: 1,2"], "of equal values none has neighbours to try"
    assert output.count("final success 0.000") == 2 and "all α have the same" in output
    assert "0.000  best\n" not in output and "highest final success" not in output
    with (tmp_path / "alpha" / "search.csv").open() as file:
        assert [row["best"] for row in csv.DictReader(file)] == ["0", "0"]
    assert search.main(command) == 0
    assert capsys.readouterr().out.count("nothing is left to do") == 2
