"""The figure, files, exit code and verification of a run of the toy problem."""

import csv
import json

import pytest
import torch
from matplotlib.figure import Figure

from mtrl_fairgrad import verify
from mtrl_fairgrad.report import main as report
from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmarks import toy
from mtrl_fairgrad.supervised.benchmarks.toy import ARRIVED, STALLED, Trajectories
from mtrl_fairgrad.supervised.benchmarks.toy_figure import draw
from mtrl_fairgrad.supervised.benchmarks.toy_problem import STARTS, losses, pareto_set

SHORT = ["benchmark=toy", "benchmark.steps=150", "benchmark.alphas=[0,2]", "progress=false"]


def straight_paths(alpha):
    """Trajectories that go straight to points of the front in 200 steps; the third stalls."""
    starts = torch.tensor(STARTS, dtype=torch.float64)
    ends = pareto_set(5)
    ends[2] = torch.tensor([5.0, 4.0])
    points = torch.stack([starts, (starts + ends) / 2, ends])
    outcomes = (ARRIVED, ARRIVED, STALLED, ARRIVED, ARRIVED)
    return Trajectories(alpha, points, (200,) * len(STARTS), outcomes)


def test_figure_1_is_in_the_plane_of_the_losses(monkeypatch, tmp_path):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda self, *args, **options: figures.append(self) or save(self, *args, **options),
    )
    paths = straight_paths(2.0)
    draw([straight_paths(0.0), paths], "code", tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 10_000
    panel = figures[0].axes[1]
    assert [axes.get_title() for axes in figures[0].axes] == [
        "α = 0 (LS)",
        "α = 2 (minimum potential delay)",
    ]
    front, *marks = panel.get_lines()
    assert (front.get_xydata() == losses(pareto_set(200)).numpy()).all()
    for sign, index in (("o", 0), ("*", -1)):
        drawn = [mark.get_xydata()[0].tolist() for mark in marks if mark.get_marker() == sign]
        assert drawn == losses(paths.points[index]).tolist()
    filled = [mark.get_markerfacecolor() for mark in marks if mark.get_marker() == "*"]
    assert [colour == "white" for colour in filled] == [False, False, True, False, False]


def test_the_figure_of_the_printed_formula_has_no_front(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: figures.append(self))
    draw([straight_paths(2.0)], "paper", tmp_path / "toy.png")
    assert {line.get_marker() for line in figures[0].axes[0].get_lines()} == {"o", "*"}


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    assert main([*SHORT, f"run_dir={folder}"]) == 1
    return folder


@pytest.fixture
def run(short, tmp_path):
    for file in short.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_trajectories_without_an_end_are_told_by_table_and_exit_code(tmp_path, capsys):
    assert main([*SHORT, f"run_dir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert out.count("out of steps\n") == 10
    assert "10 of 10 trajectories have no end" in err and "benchmark.steps" in err
    assert main([*SHORT, "benchmark.learning_rate=1e200", "alpha=2", f"run_dir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert "diverged\n" in out and "smaller benchmark.learning_rate" in err


def test_a_run_whose_trajectories_end_exits_with_0_and_verifies(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(toy, "descend", lambda alpha, *_: straight_paths(alpha))
    assert main(["benchmark=toy", "benchmark.alphas=[0,2]", f"run_dir={tmp_path}"]) == 0
    out, err = capsys.readouterr()
    assert out.count(" arrived\n") == 8 and out.count(" stalled\n") == 2 and err == ""
    assert "cannot arrive" in out
    assert verify.main([str(tmp_path)]) == 0
    capsys.readouterr()
    assert report([str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(" arrived\n") == 8


def test_a_trajectory_has_its_outcome_in_its_last_row(short):
    with (short / "toy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows[:4]] == ["0", "100", "150", "0"]
    assert [row["outcome"] for row in rows[:4]] == ["", "", "out of steps", ""]


def alter(file, old, new):
    def change(folder):
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


def remove_row(folder):
    lines = (folder / "toy.csv").read_text().splitlines()
    (folder / "toy.csv").write_text("\n".join([*lines[:2], *lines[3:], ""]))


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("manifest", lambda folder: (folder / "manifest.json").unlink()),
        ("manifest", alter("manifest.json", '"versions"', '"version"')),
        ("trajectories", alter("manifest.json", '"alphas": [', '"alphas": [1,')),
        ("trajectories", remove_row),
        ("trajectories", alter("toy.csv", "0.0,0,0,-8.5,", "0.0,0,0,-8.25,")),
        ("losses", alter("toy.csv", "0.0,0,0,-8.5,7.5,", "0.0,0,0,-8.5,7.5,1")),
        ("trajectories", alter("toy.csv", "0.0,0,150,", f"0.0,0,{10**15},")),
        ("trajectories", alter("toy.csv", "0.0,0,0,-8.5,", "0.0,9,0,-8.5,")),
        ("losses", alter("toy.csv", "0.0,0,0,-8.5,", "0.0,0,0,x,")),
        ("outcomes", alter("toy.csv", "out of steps", "arrived")),
        ("outcomes", alter("toy.csv", "out of steps", "")),
    ],
)
def test_what_was_altered_is_found(check, change, run, capsys):
    assert verify.main([str(run)]) == 0
    change(run)
    capsys.readouterr()
    assert verify.main([str(run), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert check in {finding["check"] for finding in findings if finding["problems"]}


def test_a_folder_without_manifest_is_reported_and_does_not_verify(tmp_path, capsys):
    rows = ["alpha,start,step,x1,x2,loss1,loss2", "2.0,0,0,9,9,1,1", ""]
    (tmp_path / "toy.csv").write_text("\n".join(rows))
    assert verify.main([str(tmp_path)]) == 1
    assert "there is no manifest.json" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["alpha,start\n1,0\n", "\xff\n", "alpha,start,step,x1,x2,loss1,loss2\n1,-1,0,1,1,1,1\n1\n"],
)
def test_a_damaged_file_is_reported_in_one_sentence(text, tmp_path, capsys):
    (tmp_path / "toy.csv").write_bytes(text.encode("latin-1"))
    assert report([str(tmp_path)]) == 2
    assert "toy.csv is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["config.yaml", "manifest.json"])
def test_the_folder_of_another_run_is_refused_and_left_alone(file, tmp_path, capsys):
    (tmp_path / file).write_text("{}")
    assert main([*SHORT, f"run_dir={tmp_path}"]) == 2
    assert f"holds the {file}" in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(file, "{}")]
