"""Run folders of somebody else with links, pipes and giants in the place of every file.

Whatever is done with them, nothing outside changes, and what is refused is named.
"""

import os
import shutil

import pytest

from mtrl_fairgrad.analysis.report.report_files import write_report
from mtrl_fairgrad.analysis.verification import verify
from mtrl_fairgrad.runs import fault_log, metrics_log
from mtrl_fairgrad.runs.run_dir import RunFolder, RunFolderError, write_atomic
from tests.support.sample_run import CONFIG, GROUPS, Rows, rows

EVENTS = "events.out.tfevents.1"
CHECKPOINT = "checkpoints/000000000500"


def make_run(path):
    config = {**CONFIG, "steps": 500, "eval": {"every": 500}}
    folder, ring = RunFolder.create(path, config, {}), Rows(6, 2)
    ring.add(1, 2, 3)
    folder.append_evaluation(rows(500))
    (path / "metrics.csv").write_bytes(metrics_log.encode([]))
    (path / "incidents.csv").write_bytes(fault_log.encode_faults([]))
    (path / EVENTS).write_bytes(b"known")
    with folder.lock():
        folder.save_checkpoint(500, GROUPS, {"at": 500}, ring=ring)
    return folder


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    make_run(path)
    [segment] = (path / "checkpoints" / "segments").iterdir()
    segment.rename(segment.with_name("x.rows")).rename(segment)
    return path


def resume(path):
    """Do what resuming does with the files."""
    folder = RunFolder.open(path)
    with folder.lock():
        folder.clean()
        saved = folder.resume_checkpoint(GROUPS, Rows(6, 2)) if folder.has_checkpoint() else None
        if saved is None:
            folder.check_start_over()
        folder.rewind(saved)
        log = metrics_log.MetricsLog(path)
        log.add("critic/residual", 1.0, 500)
        log.flush()
        folder.append_evaluation(rows(1000))
        write_atomic(path / fault_log.NAME, fault_log.encode_faults([]))
        folder.save_checkpoint(1000, GROUPS, {"at": 1000}, keep=1, ring=Rows(6, 2))


def read(path):
    """Do what a report does, but draw nothing."""
    folder = RunFolder.open(path)
    folder.evaluations()
    metrics_log.read_metrics(path)
    fault_log.read_faults(path)
    folder.without_checkpoint()


def check(path):
    findings = verify(RunFolder.open(path))
    problems = [problem for finding in findings for problem in finding.problems]
    raise RunFolderError("; ".join(problems))


USES = {"resume": resume, "read": read, "verify": check}
FILES = ["config.yaml", "manifest.json", "evaluations.csv", "metrics.csv", EVENTS, "run.lock"]
FILES += ["incidents.csv", "checkpoints", "checkpoints/segments", CHECKPOINT]
FILES += [f"{CHECKPOINT}/{name}" for name in ("index.json", "state.json", "agent.safetensors")]
NAMED = {
    "resume": set(FILES) - {"incidents.csv"},
    "read": {"config.yaml", "manifest.json", "evaluations.csv", "metrics.csv", "incidents.csv"},
    "verify": set(FILES) - {"run.lock", "incidents.csv"},
}
"""Files by whose name a use must end; others may be ignored or taken for damage."""


def link(path):
    """Move a file or folder out of the run and link to it, as an archive can do."""
    moved = path.parents[path.parts[::-1].index("run")] / "outside"
    shutil.move(path, moved)
    path.symlink_to(moved)


def hard(path):
    moved = path.parents[path.parts[::-1].index("run")] / "outside"
    os.link(path, moved)


def pipe(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.mkfifo(path)


def giant(path):
    if path.is_file():
        os.truncate(path, 2**40)


def snapshot(folder):
    return {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in [folder, *folder.rglob("*")]
        if "run" not in path.parts[len(folder.parent.parts) :]
    }


@pytest.mark.parametrize("spoil", [link, hard, pipe, giant])
@pytest.mark.parametrize("name", FILES)
def test_nothing_outside_changes_and_what_is_refused_is_named(tmp_path, template, name, spoil):
    for use, action in USES.items():
        home = tmp_path / use
        home.mkdir()
        shutil.copytree(template, home / "run")
        if spoil is hard and (home / "run" / name).is_dir():
            continue
        spoil(home / "run" / name)
        before = snapshot(home)
        try:
            action(home / "run")
            told = ""
        except (RunFolderError, OSError) as error:
            told = str(error)
        assert snapshot(home) == before
        if spoil in (link, pipe) and name in NAMED[use]:
            assert name in told and "., " not in told, (use, told)


def test_a_report_follows_no_planted_temporary_and_no_link_of_its_files(tmp_path, template):
    path = shutil.copytree(template, tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("report.csv", "report.png"):
        for planted in (path / f".{name}.tmp", path / name):
            planted.symlink_to(precious)
    write_report([path], path)
    assert precious.read_text() == "precious"
    assert (path / "report.csv").read_text() and not (path / "report.csv").is_symlink()
