import csv
import errno
import io
import os
import subprocess
import sys

import pytest

from mtrl_fairgrad.analysis.report import html
from mtrl_fairgrad.analysis.report.figure_style import draw, styles
from mtrl_fairgrad.analysis.report.formats import as_text
from mtrl_fairgrad.analysis.report.protocol_blocks import Block, make_blocks
from mtrl_fairgrad.analysis.run_groups import ReportError
from mtrl_fairgrad.report import main, report
from mtrl_fairgrad.runs import fault_log
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder
from tests.support.fabricated_runs import COURSE, METHOD, PROTOCOL, blocks_of_runs, groups_of
from tests.support.paths import ROOT


def of_seed(s):
    return {env_steps: [success[s]] for env_steps, success in COURSE.items()}


def read_csv(folder):
    rows = csv.DictReader(io.StringIO((folder / "report.csv").read_text()))
    return {(row["protocol"], row["method"], row["task"]): row for row in rows}


def test_the_numbers_of_one_run_by_hand(make):
    path = make("a")
    assert report([path]) == path
    found = read_csv(path)
    assert list(found) == [(PROTOCOL, METHOD, task) for task in ("mean", "reach-v3", "push-v3")]
    mean = found[PROTOCOL, METHOD, "mean"]
    assert {key: mean[key] for key in list(mean)[3:12]} == {
        "seeds": "2",
        "episodes": "50",
        "env_steps": "1000",
        "untrained": "0.1",
        "final": "0.6",
        "final_stderr": "0.1",
        "best": "0.7",
        "best_stderr": "0.1",
        "best_env_steps": "500",
    }
    # The four final numbers are .2, .6, .8, .8, their middle half .6, .8; nothing was logged, and
    # this is no MT10.
    assert (mean["final_iqm"], *[mean[key] for key in list(mean)[17:21]]) == ("0.7", "", "", "", "")
    # Both seeds' curves, 0, .8, .5 and .2, .6, .7, have the same area below them.
    assert (mean["course"], float(mean["course_stderr"])) == ("0.525", pytest.approx(0, abs=1e-12))
    assert 0.2 <= float(mean["final_low"]) < 0.6 < float(mean["final_high"]) <= 0.8
    push = found[PROTOCOL, METHOD, "push-v3"]
    assert set(list(push.values())[12:]) == {""}
    assert [push[key] for key in ("untrained", "final", "final_stderr", "best", "best_stderr")] == [
        "0", "0.8", "0", "0.5", "0.1"
    ]  # fmt: skip


def test_a_disk_that_fails_while_incidents_or_videos_are_read_is_one_sentence(
    make, tmp_path, monkeypatch, capsys
):
    def fail_to_read(path, *arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    path = make("a")
    for file in (path / "incidents.csv", path / "films" / "a.mp4"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
        with monkeypatch.context() as patch:
            for module in (fault_log, html):
                patch.setattr(module, "read_bytes", fail_to_read)
            assert main([str(path), "--html", str(tmp_path / "page.html")]) == 1
        [said] = capsys.readouterr().err.splitlines()
        assert said.startswith(f"error: {file} cannot be read") and "check the disk" in said
        file.unlink()


def test_the_printed_table_holds_the_same_numbers(make, capsys):
    report([make("a")])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert (
        "fairgrad (α=2, sgd) 2 1,000 0.100 0.600 ± 0.100 0.700 ± 0.100 at 500 0.525 ± 0.000"
        in lines
    )
    assert "reach-v3 0.400 ± 0.200" in lines
    assert "push-v3 0.800 ± 0.000" in lines


def test_one_seed_has_no_standard_error(make):
    path = make("a", of_seed(0), seeds=[0])
    report([path])
    mean = read_csv(path)[PROTOCOL, METHOD, "mean"]
    assert (mean["seeds"], mean["final"], mean["final_stderr"], mean["best_stderr"]) == (
        "1",
        "0.5",
        "",
        "",
    )
    assert (
        mean["final_low"],
        mean["final_high"],
        mean["final_iqm_low"],
        mean["final_iqm_high"],
    ) == ("",) * 4
    assert mean["final_iqm"] == "0.5"
    assert "±" not in as_text(blocks_of_runs(path))


def test_pooled_runs_count_like_one_run_of_all_their_seeds(make, tmp_path):
    whole = report([make("whole")])
    parts = [
        make("one", of_seed(1), seeds=[1], device="cuda", env={"workers": 8}, preset="quick"),
        make("zero", of_seed(0), seeds=[0], device="cpu", threads=3),
    ]
    pooled = report(parts, out=tmp_path / "pooled")
    assert (pooled / "report.csv").read_text() == (whole / "report.csv").read_text()


def test_the_same_seed_does_not_count_twice(make, tmp_path, capsys):
    paths = [str(make("a")), str(make("b", of_seed(1), seeds=[1]))]
    assert main([*paths, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert shown.err == f"error: seed 1 is in both {paths[0]} and {paths[1]}: leave one out.\n"
    assert shown.out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "other",
    [
        {"env": {"horizon": 150}},
        {"env": {"name": "mt10_paper"}},
        {"tasks": ["push-v3", "reach-v3"]},
        {"manifest": {"protocol": {"goals": "frozen"}}},
        {"eval": {"every": 5000, "episodes": 1}},
    ],
)
def test_runs_of_different_protocols_are_never_averaged(make, other):
    groups = groups_of(make("a", of_seed(0), seeds=[0]), make("b", of_seed(1), seeds=[1], **other))
    assert [group.seeds for group in groups] == [[0], [1]]
    titles = [part.get_suptitle() for part in draw(groups).subfigs]
    assert len(titles) == 2 and all("mt10" in title for title in titles)
    assert as_text(make_blocks(groups)).count("final, by task") == 2
    assert "2 protocols. Numbers of different protocols are neither averaged" in as_text(
        make_blocks(groups)
    )
    with pytest.raises(ReportError, match="never averaged or compared"):
        Block(groups, styles(groups))


def test_only_evaluations_that_all_seeds_have_are_used_and_that_is_said(make):
    short = {env_steps: course for env_steps, course in of_seed(1).items() if env_steps < 1000}
    [group] = groups_of(make("a", of_seed(0), seeds=[0]), make("b", short, seeds=[1]))
    assert group.env_steps == [0, 500]
    assert group.final.mean == pytest.approx(0.7)
    assert group.episodes == 10
    assert f"{METHOD}: 1 evaluations that not all its seeds have are left out." in as_text(
        make_blocks([group])
    )


def test_an_evaluation_cut_off_in_the_middle_is_left_out(make):
    path = make("a")
    with (path / "evaluations.csv").open("a") as file:
        file.write("1500,0,reach-v3,10,1.0,1.0,1.0\n1500,0,pu")
    assert groups_of(path)[0].env_steps == [0, 500, 1000]


def test_without_an_evaluation_before_training_none_is_invented(make):
    path = make("a", {1000: COURSE[1000]})
    report([path])
    assert read_csv(path)[PROTOCOL, METHOD, "mean"]["untrained"] == ""
    assert " – " in as_text(blocks_of_runs(path))


def test_a_configuration_that_lacks_everything_is_reported_all_the_same(tmp_path):
    folder = RunFolder.create(tmp_path / "bare", {}, {})
    folder.append_evaluation([Evaluation(0, 3, "reach-v3", 1, 1.0, 0.0)])
    report([folder.path])
    assert list(read_csv(folder.path)) == [
        ("unnamed protocol · reach-v3", "unnamed method", "mean"),
        ("unnamed protocol · reach-v3", "unnamed method", "reach-v3"),
    ]


# ---- where it goes, and mistakes ----


def test_several_runs_are_reported_into_the_current_folder(make, tmp_path, monkeypatch):
    paths = [make("a"), make("b", method={"name": "ls"})]
    monkeypatch.chdir(tmp_path)
    assert main([str(path) for path in paths]) == 0
    names = {file.name for file in (tmp_path / "report").iterdir()}
    assert names == {"report.csv", "report.png", "report.sha256"}
    assert not (paths[0] / "report.csv").exists()


def test_the_other_formats_are_written_where_asked(make, tmp_path, capsys):
    path = make("a")
    names = {"--html": "site/report.html", "--latex": "paper/table.tex", "--markdown": "report.md"}
    options = [word for option, name in names.items() for word in (option, str(tmp_path / name))]
    assert (
        main([str(path), "--out", str(tmp_path), *options, "--figures", str(tmp_path / "figures")])
        == 0
    )
    shown = capsys.readouterr().out
    for name in names.values():
        content = (tmp_path / name).read_text()
        assert "horizon 500" in content and "one hot" in content
        assert str(tmp_path / name) in shown
    found = {file.name for file in (tmp_path / "figures").iterdir()}
    assert found == {"curves.pdf", "heatmap.pdf", "tasks.pdf", "intervals.pdf"}
    assert all(file.read_bytes().startswith(b"%PDF") for file in (tmp_path / "figures").iterdir())


def test_a_page_that_cannot_be_written_is_one_sentence(make, tmp_path, capsys):
    run = make("a")
    assert main([str(run), "--out", str(tmp_path / "out"), "--html", str(run)]) == 2
    assert f"{run} is a folder" in one_line(capsys)


def one_line(capsys):
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    return shown


def test_mistakes_are_one_line_and_exit_code_2(make, tmp_path, capsys):
    empty = make("empty", {})
    for arguments, expected in [
        ([], "RUN"),
        (["--ouch", "x"], "--ouch"),
        ([str(tmp_path / "missing")], "holds no run"),
        ([str(tmp_path)], "no run below"),
        ([str(empty)], "no evaluation of all its seeds and tasks yet"),
    ]:
        assert main(arguments) == 2
        assert expected in one_line(capsys)
    assert not (empty / "report.csv").exists()


def test_until_a_step_runs_of_different_length_are_pooled(make, tmp_path, capsys):
    halves = {env_steps: success[:1] for env_steps, success in COURSE.items()}
    longer = {
        **{env_steps: success[1:] for env_steps, success in COURSE.items()},
        1500: [[1.0, 1.0]],
    }
    paths = [make("a", halves, seeds=[0]), make("b", longer, seeds=[1], steps=1500)]
    report(paths, out=tmp_path / "apart")
    assert [
        row["env_steps"] for row in read_csv(tmp_path / "apart").values() if row["task"] == "mean"
    ] == [
        "1000",
        "1500",
    ]
    report([make("whole")], out=tmp_path / "whole")
    report(paths, out=tmp_path / "pooled", until=1200)
    assert read_csv(tmp_path / "pooled") == read_csv(tmp_path / "whole")
    assert "Evaluations and metrics until env_steps 1,200;" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main([*map(str, paths), "--out", str(tmp_path / "half"), "--until", "500"]) == 0
    mean = read_csv(tmp_path / "half")[PROTOCOL, METHOD, "mean"]
    assert (mean["env_steps"], mean["seeds"], mean["final"]) == ("500", "2", "0.7")


def test_until_a_step_needs_an_evaluation_by_then(make, capsys):
    late = str(make("a", {1000: COURSE[1000]}))
    for given, expected in (
        ("999", "no evaluation of all its seeds and tasks until env_steps 999"),
        ("-1", "'-1' is not a number of env_steps"),
        ("1e2", "no evaluation of all its seeds and tasks until env_steps 100"),
        ("x", "'x' is not an integer"),
        ("1.5", "'1.5' is not an integer"),
    ):
        assert main([late, f"--until={given}"]) == 2
        assert expected in one_line(capsys)


def test_a_row_that_is_there_twice_is_refused(make, capsys):
    path = make("a")
    RunFolder.open(path).append_evaluation([Evaluation(500, 1, "push-v3", 10, 0.0, 0.0)])
    assert main([str(path)]) == 2
    assert "two rows for env_steps 500, seed 1, task push-v3" in one_line(capsys)


def test_a_folder_that_cannot_be_written_is_one_sentence(make, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([str(make("a")), "--out", str(tmp_path / "file")]) == 2
    assert "is a file: give a folder" in one_line(capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_no_runs_at_all():
    with pytest.raises(ValueError, match="no runs were given"):
        report([])


def test_the_command_needs_no_simulator(make):
    path = make("a")
    code = (
        "import sys; from mtrl_fairgrad.report import main; code = main(sys.argv[1:]); "
        "assert not {'metaworld', 'mujoco', 'gymnasium', 'envs', 'agents', 'hydra'} & "
        "set(sys.modules); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments, expected in [([str(path)], 0), ([str(path / "no")], 2)]:
        found = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert found.returncode == expected, found.stderr
        assert found.stderr.count("\n") == (expected == 2)
