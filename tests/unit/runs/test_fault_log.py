"""FaultCounts of a run: said when they come, kept in its folder, and told by its report."""

import shutil

import pytest
import torch

from mtrl_fairgrad import train
from mtrl_fairgrad.agents import SAC
from mtrl_fairgrad.agents.guard import Guard
from mtrl_fairgrad.config.guard import CHECKS, GuardConfig
from mtrl_fairgrad.runs.fault_log import (
    Fault,
    describe_all,
    describe_faults,
    encode_faults,
    group_by_task,
    make_faults,
    read_faults,
)
from mtrl_fairgrad.utils.validation import MAX_NAME
from tests.support.tiny_runs import TASKS, TINY, assert_same_checkpoint, rows

ONE = Fault("critic", "vanished_gradient", 3, "reach-v3", 2, 100, 40, "count")


def spoil(monkeypatch, seed, task, update, network="critics"):
    """Let the loss of this task of this seed be no number in this update."""
    genuine = SAC.update

    def spoilt(self, batch, noise):
        if int(self.updates) == update:
            batch.rewards[seed, task] = torch.nan
        return genuine(self, batch, noise)

    monkeypatch.setattr(SAC, "update", spoilt)


def run(folder, *words):
    return train.main([*TINY, "method.solver=newton", f"run_dir={folder}", *words])


# ---- a run ----


@pytest.mark.exhaustive
def test_a_failed_seed_does_not_take_the_others_down(tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "whole", "seeds=[0,1]") == 0
    capsys.readouterr()
    spoil(monkeypatch, 1, 0, 30)
    assert run(tmp_path / "one", "seeds=[0,1]") == 0
    printed = capsys.readouterr().out
    told = "seed 1, reach-v3: critic: a loss or gradient was not finite"
    assert (
        printed.count(f"warning: by env_steps 46: {told} in 1 of 31 updates, first in update 30")
        == 1
    )
    assert " ".join(printed.split()).count(f"{told} in 1 of 85 updates") == 1
    assert "training of seed 1 stopped at update 30;" in " ".join(printed.split()), (
        "below the report's numbers"
    )
    assert read_faults(tmp_path / "one") == [
        Fault("critic", "non_finite", 1, "reach-v3", 1, 85, 30, "stop")
    ]

    whole, one = rows(tmp_path / "whole"), rows(tmp_path / "one")
    assert len(whole) == len(one), "evaluations have no gap"
    assert [row for row in whole if row["seed"] == "0"] == [
        row for row in one if row["seed"] == "0"
    ]
    late = {row["return"] for row in one if row["seed"] == "1" and row["env_steps"] == "80"}
    assert late and late != {
        row["return"] for row in whole if row["seed"] == "1" and row["env_steps"] == "80"
    }


@pytest.mark.exhaustive
def test_what_was_counted_survives_a_checkpoint_and_is_not_said_again(
    tmp_path, monkeypatch, capsys
):
    spoil(monkeypatch, 1, 0, 10)
    assert run(tmp_path / "a", "seeds=[0,1]", "steps=40") == 0
    assert "warning: by env_steps" in capsys.readouterr().out
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert train.main([f"resume={tmp_path / 'b'}", "steps=80"]) == 0
    assert "warning: by env_steps" not in capsys.readouterr().out
    [kept] = read_faults(tmp_path / "b")
    assert (kept.updates, kept.of_updates, kept.first_update) == (1, 65, 10)
    assert run(tmp_path / "c", "seeds=[0,1]", "steps=80") == 0
    assert_same_checkpoint(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "b" / "incidents.csv").read_bytes() == (
        tmp_path / "c" / "incidents.csv"
    ).read_bytes()


@pytest.mark.exhaustive
def test_skipped_updates_are_counted_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, 0, 1, 30)
    assert run(tmp_path / "a", "guard.non_finite=skip") == 0
    assert "later ones are counted but not reported" in capsys.readouterr().out
    [found] = read_faults(tmp_path / "a")
    assert (found.task, found.updates, found.response) == (TASKS[1], 1, "skip")


@pytest.mark.exhaustive
def test_single_task_learning_loses_only_the_task(tmp_path, monkeypatch, capsys):
    def spoilt(self, batch, noise, genuine=SAC.update):
        if int(self.updates) == 30:
            batch.rewards[1] = torch.nan  # the lane of the second task
        return genuine(self, batch, noise)

    monkeypatch.setattr(SAC, "update", spoilt)
    assert train.main([*TINY, "agent=stl", f"run_dir={tmp_path / 'a'}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "training of drawer-close-v3 of seed 0 stopped at" in printed
    assert [(one.task, one.updates) for one in read_faults(tmp_path / "a")] == [(TASKS[1], 1)]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("guard.non_finite=count", "guard.non_finite=count is unknown; allowed: stop, skip"),
        (
            "guard.exploding_value=skip",
            "guard.exploding_value=skip is unknown; allowed: count, stop",
        ),
        ("guard.unsolved=pcgrad", "allowed: count, ls, skip, stop"),
        ("guard.largest_value=0", "guard.largest_value=0.0 is not allowed"),
        ("guard.smallest_temperature=nan", "guard.smallest_temperature=nan is not allowed"),
    ],
)
def test_answers_that_there_are_not_are_refused(word, said, tmp_path, capsys):
    assert run(tmp_path / "a", word) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "a").exists()


# ---- the file and the sentences ----


def test_the_file_gives_back_what_was_written(tmp_path):
    faults = [ONE, Fault("actor", "unsolved", 0, "", 7, 9, 0, "ls")]
    (tmp_path / "incidents.csv").write_bytes(encode_faults(faults))
    assert read_faults(tmp_path) == faults
    assert read_faults(tmp_path / "elsewhere") == []


WHOLE = encode_faults([ONE]).decode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "x\n", "network,condition\n"),
        *(WHOLE.replace("100", number) for number in ("many", "0", "-1", "1" + "0" * 30)),
        WHOLE.replace("critic", "x" * 200_000),
        WHOLE.replace("critic", "x" * (MAX_NAME + 1)),
    ],
    ids=range(9),
)
def test_a_damaged_file_is_named(text, tmp_path):
    (tmp_path / "incidents.csv").write_text(text)
    with pytest.raises(ValueError, match=r"incidents\.csv is damaged"):
        read_faults(tmp_path)


def test_counts_become_a_list_and_what_belongs_to_a_seed_stands_once():
    counts = [[[0, 0], [0, 0]] for _ in CHECKS]
    first = [[[-1, -1], [-1, -1]] for _ in CHECKS]
    n, m = CHECKS.index(("actor", "unsolved")), CHECKS.index(("critic", "vanished_gradient"))
    counts[n][1], first[n][1] = [5, 5], [2, 2]
    counts[m][0], first[m][0] = [0, 4], [-1, 6]
    guard = GuardConfig(unsolved="skip")
    assert make_faults(counts, first, 50, [8, 9], ["a", "b"], guard) == [
        Fault("critic", "vanished_gradient", 8, "b", 4, 50, 6, "count"),
        Fault("actor", "unsolved", 9, "", 5, 50, 2, "skip"),
    ]


def test_tasks_of_one_seed_share_a_sentence():
    other = Fault("critic", "vanished_gradient", 3, "push-v3", 5, 100, 20, "count")
    elsewhere = Fault("critic", "vanished_gradient", 4, "push-v3", 5, 100, 20, "count")
    assert group_by_task([ONE, other, elsewhere]) == [[ONE, other], [elsewhere]]
    assert describe_faults([ONE, other]) == (
        "seed 3, reach-v3, push-v3: critic: a gradient had vanished in 5 of 100 updates, first in "
        "update 20; counted"
    )


def test_counted_unsolved_equations_of_all_seeds_and_networks_share_one_sentence():
    counted = [
        Fault(network, "unsolved", seed, "", updates, 1000, 3, "count")
        for network, seed, updates in (("critic", 0, 7), ("critic", 1, 90), ("actor", 0, 8))
    ]
    handled = Fault("actor", "unsolved", 1, "", 5, 1000, 2, "ls")
    assert describe_all([*counted, ONE, handled]) == [
        "7 to 90 of 1,000 updates (critic, actor) left the equation unsolved: such an update may "
        "not improve every task",
        describe_faults([ONE]),
        describe_faults([handled]),
    ]
    assert describe_all(counted[:1])[0].startswith("7 of 1,000 updates (critic) left")
    assert describe_all([]) == []


@pytest.mark.exhaustive
def test_an_unsolved_equation_is_told_at_once_only_where_something_is_done_about_it(
    tmp_path, capsys
):
    few = ["method.solver=sgd", "method.sgd_steps=1", "steps=20"]
    assert run(tmp_path / "a", *few, "seeds=[0,1]") == 0
    printed = capsys.readouterr().out
    assert "warning: by env_steps" not in printed and "faults:" not in printed
    assert printed.count("left the equation unsolved") == printed.count("solved: ") == 1
    assert "may not improve every task" in " ".join(printed.split())
    assert run(tmp_path / "b", *few, "guard.unsolved=ls") == 0
    assert "these updates gave all tasks equal weights" in capsys.readouterr().out
    assert {one.condition for one in read_faults(tmp_path / "a")} == {
        one.condition for one in read_faults(tmp_path / "b")
    }


def test_a_policy_that_diverges_before_the_first_update_leaves_a_file_that_can_be_read(tmp_path):
    guard = Guard(GuardConfig(), 1, 2, torch.device("cpu"))
    guard.stop(torch.tensor([[False, True]]), torch.tensor(0))
    counts, first, _ = (each.tolist() for each in guard.faults())
    faults = make_faults(counts, first, 0, [3], ["a", "b"], GuardConfig())
    (tmp_path / "incidents.csv").write_bytes(encode_faults(faults))
    assert read_faults(tmp_path) == faults
    assert [(each.task, each.updates, each.response) for each in faults] == [("b", 1, "stop")]
