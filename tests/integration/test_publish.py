"""Publishing: what is left of a run says what the run said, and nothing that cannot be trusted is
published.
"""

import csv
import re
import shutil
from pathlib import Path

import measure_steps
import publish
import pytest

from mtrl_fairgrad import train, verify
from mtrl_fairgrad.analysis.report.formats import as_csv
from mtrl_fairgrad.analysis.run_groups import pool
from mtrl_fairgrad.runs import fault_log, metrics_log
from mtrl_fairgrad.runs.metrics_log import read_metrics
from mtrl_fairgrad.runs.run_dir import RunFolder
from tests.support.fabricated_runs import blocks_of_runs
from tests.support.tiny_runs import TINY

PUBLISHED = Path(publish.ROOT) / "results" / "mt10"
PAGE = "# Title\n\n<!-- small -->\nold\n<!-- end of small -->\n\nrest\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A set of one finished run with two seeds."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    tasks = [
        "env=gymnasium",
        "env.tasks=[Pendulum-v1,Pendulum-v1]",
        "env.task_options=[{g: 5},{g: 10}]",
    ]
    some = [
        "env.success_return=-30",
        "steps=40",
        "seeds=[0,3]",
        "method=ls",
        f"run_dir={folder / 'ls'}",
    ]
    assert train.main([*TINY[1:], *tasks, *some]) == 0
    return folder


@pytest.fixture
def places(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "results", tmp_path / "page.md"


def published(source, out, page, *words):
    return publish.main([str(source), "--out", str(out), "--page", str(page), *words])


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_published_run_reports_as_the_run_itself(small, places):
    out, page = places
    assert published(small, out, page) == 0
    there, run = out / "small" / "ls", RunFolder.open(small / "ls")
    assert as_csv(pool([RunFolder.open(there)])) == as_csv(pool([run]))
    assert not (there / "checkpoints").exists()
    texts = [path.read_text() for path in there.rglob("*") if path.suffix in (".yaml", ".json")]
    assert RunFolder.open(there).config["run_dir"] == "runs/small/ls"
    assert not any(str(small) in text for text in texts) and verify.main([str(there)]) == 0
    assert sorted(path.name for path in (there / "policies").glob("*.pt2")) == [
        "policy-40-seed0.pt2",
        "policy-40-seed3.pt2",
    ]
    with (out / "small.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [
        (int(row["env_steps"]), int(row["seed"]), row["task"], float(row["success"]))
        for row in rows
    ] == [(row.env_steps, row.seed, row.task, row.success) for row in run.evaluations()]
    known = (run.manifest["git"] or {"commit": ""})["commit"]
    assert {row["commit"] for row in rows} == {known} and rows[0]["protocol"].startswith(
        "gymnasium"
    )
    text = page.read_text()
    assert "| ls | 2 | 40 (0.002%) |" in re.sub("  +", " ", text) and "(results/small.png)" in text
    assert text.startswith("# Title\n\n<!-- small -->") and text.endswith(
        "<!-- end of small -->\n\nrest\n"
    )


def test_what_is_made_of_published_runs_can_be_made_again(small, places):
    out, page = places
    assert published(small, out, page, "--no-policies") == 0
    before = contents(out.parent)
    page.write_text(PAGE)
    assert published(out / "small", out, page) == 0
    assert contents(out.parent) == before


def test_curves_are_thinned_but_span_the_same_time(small, places):
    out, page = places
    published(small, out, page, "--no-policies")
    whole, thin = read_metrics(small / "ls"), read_metrics(out / "small" / "ls")
    assert (
        thin.wall_seconds == pytest.approx(whole.wall_seconds)
        and thin.series.keys() == whole.series.keys()
    )
    (out / "few").mkdir()
    two = metrics_log.thin([*metrics_log.read_entries(small / "ls")], 2)
    (out / "few" / "metrics.csv").write_bytes(metrics_log.encode(two))
    few = read_metrics(out / "few")
    assert few.wall_seconds == pytest.approx(whole.wall_seconds)
    for tag, series in few.series.items():
        ends = [0, -1] if len(whole.series[tag].env_steps) > 1 else [0]
        assert set(series.env_steps) <= set(whole.series[tag].env_steps[ends])


def test_a_run_that_cannot_be_trusted_is_not_published(small, places, tmp_path, capsys):
    shutil.copytree(small, tmp_path / "small")
    lines = (tmp_path / "small" / "ls" / "evaluations.csv").read_text().splitlines(keepends=True)
    (tmp_path / "small" / "ls" / "evaluations.csv").write_text("".join(lines[:-1]))
    assert published(tmp_path / "small", *places) == 2
    assert "cannot be trusted" in capsys.readouterr().err and not places[0].exists()


@pytest.mark.exhaustive
def test_a_policy_that_does_not_repeat_what_it_scored_is_not_published(
    small, places, monkeypatch, capsys
):
    read = publish._read
    flipped = {"0.0": "1.0"}
    monkeypatch.setattr(
        publish,
        "_read",
        lambda path: [row | {"success": flipped.get(row["success"], "0.0")} for row in read(path)],
    )
    assert published(small, *places) == 2
    assert "does not repeat the last evaluation" in capsys.readouterr().err


def test_a_set_needs_runs_and_a_place_in_the_page(small, places, tmp_path, capsys):
    assert published(tmp_path, *places) == 2
    assert "holds no run folders" in capsys.readouterr().err
    places[1].write_text("nothing\n")
    assert published(small, *places, "--no-policies") == 2
    assert "put <!-- small --> and <!-- end of small -->" in capsys.readouterr().err


def test_a_set_of_somebody_else_is_one_sentence_and_text_in_the_page(small, places, capsys):
    out, page = places
    published(small, out, page, "--no-policies")
    there = out / "small" / "ls"
    fault = "critic,non_finite,0,<!-- end of small --><script>,1,1,0,stop"
    (there / "incidents.csv").write_text(f"{','.join(fault_log.COLUMNS)}\n{fault}\n")
    config = (there / "config.yaml").read_text()
    (there / "config.yaml").write_text(config.replace("name: mtsac", "name: stl"))
    assert published(out / "small", out, page) == 0
    assert page.read_text().count("<!-- end of small -->") == 1
    assert "<script>" not in page.read_text()
    manifest = (there / "manifest.json").read_text()
    (there / "manifest.json").write_text(manifest.replace('"versions"', '"version"'))
    there.with_name("linked").symlink_to(small / "ls")
    for said in ("linked is a symbolic link", "lacks versions"):
        capsys.readouterr()
        assert published(out / "small", out, page) == 2
        assert said in capsys.readouterr().err
        there.with_name("linked").unlink(missing_ok=True)


def test_methods_are_compared_with_the_plain_mean_at_equal_steps_and_at_equal_time(make):
    """Success of ls is 0, 0.4, 0.8, that of the other method 0, 0.2, 0.6 at half the speed."""
    ls = {0: [[0, 0]] * 4, 500: [[0.4, 0.4]] * 4, 1000: [[0.8, 0.8]] * 4}
    other = {0: [[0, 0]] * 4, 500: [[0.1, 0.3]] * 4, 1000: [[0.6, 0.6]] * 4}
    seeds = dict(seeds=(0, 1, 2, 3))
    paths = make("ls", ls, method={"name": "ls"}, **seeds), make("other", other, **seeds)
    [block] = blocks_of_runs(*paths)
    table = publish.set_table(block, {"ls": 1.0, "other": 2.0})
    added = ["time of a step", "at equal time", "p of final", "p of course"]
    assert table.head[-4:] == added and not set(added) & set(publish.set_table(block, {}).head[:-2])
    first, second = (dict(zip(table.head, row, strict=True)) for row in table.rows)
    assert (first["time of a step"], first["at equal time"]) == ("1.00", "0.800 ± 0.000")
    assert (second["time of a step"], second["at equal time"]) == ("2.00", "0.200 ± 0.000")
    assert first["p of final"] == "–" and second["p of final"] == second["p of course"] == "0.029"


def test_the_figure_of_gradients_is_made_where_the_page_shows_it(small, places, capsys):
    out, page = places
    page.write_text(f"![gradients](results/small.gradients.png)\n{PAGE}")
    assert published(small, out, page, "--no-policies") == 0
    assert (out / "small.gradients.png").read_bytes().startswith(b"\x89PNG")
    (out / "small" / "ls" / "metrics.csv").write_text("env_steps,name,value\n0,wall_seconds,1\n")
    assert published(out / "small", out, page) == 2
    assert "logged no gradients" in capsys.readouterr().err


def test_one_policy_of_each_run_is_that_of_its_first_seed(small, places):
    assert published(small, *places, "--one-policy") == 0
    policies = places[0] / "small" / "ls" / "policies"
    assert [path.name for path in policies.glob("*.pt2")] == ["policy-40-seed0.pt2"]


def test_the_cost_of_steps_is_measured_for_each_run_of_a_set(small, tmp_path, capsys):
    shutil.copytree(small / "ls", tmp_path / "set" / "ls")
    shutil.copytree(small / "ls", tmp_path / "set" / "other")
    words = ["--out", str(tmp_path), "--rounds", "1"]
    assert measure_steps.main([str(tmp_path / "set"), *words]) == 0
    costs = publish._costs(tmp_path / "set.costs.csv")
    assert costs["ls"] == 1 and costs["other"] > 0 and len(costs) == 2
    assert contents(tmp_path / "set" / "ls") == contents(small / "ls")
    shutil.rmtree(tmp_path / "set" / "ls")
    assert measure_steps.main([str(tmp_path / "set"), *words]) == 2
    assert "has no run ls" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir()))
def test_tables_in_the_repository_are_those_of_its_runs(name, tmp_path):
    page = publish.ROOT / "docs" / "results.md"
    copy, out = tmp_path / "docs" / "results.md", tmp_path / "results" / "mt10"
    shutil.copytree(PUBLISHED, out)
    copy.parent.mkdir()
    copy.write_text(page.read_text())
    assert published(out / name, out, copy) == 0
    assert copy.read_text() == page.read_text()
    assert (out / f"{name}.csv").read_bytes() == (PUBLISHED / f"{name}.csv").read_bytes()
    cards = [path.relative_to(PUBLISHED) for path in PUBLISHED.glob(f"{name}/*/policies/README.md")]
    assert len(cards) == len([*PUBLISHED.glob(f"{name}/*/policies")]) > 0
    for card in cards:
        assert (out / card).read_text() == (PUBLISHED / card).read_text()
