"""Whether a report can be trusted: a sound run is, and every kind of damage is told."""

import hashlib
import itertools
import json
import shutil
import subprocess
import sys

import pytest

from mtrl_fairgrad import verify
from mtrl_fairgrad.report import report
from mtrl_fairgrad.runs import fault_log, resume_log
from mtrl_fairgrad.runs.fault_log import Fault, encode_faults
from mtrl_fairgrad.runs.manifest import manifest, provenance
from mtrl_fairgrad.runs.metrics_log import MetricsLog
from mtrl_fairgrad.runs.policy_description import FORMAT
from mtrl_fairgrad.runs.resume_log import add_resume
from mtrl_fairgrad.runs.run_dir import Evaluation, RunFolder, write_atomic
from mtrl_fairgrad.runs.tensorboard_writer import EventFile
from tests.support.paths import ROOT
from tests.support.sample_run import GROUPS, Rows

CONFIG = {
    "env": {"name": "mt10", "tasks": ["reach-v3", "push-v3"]},
    "eval": {"every": 400, "episodes": 10},
    "method": {"name": "ls"},
    "seeds": [0, 7],
    "steps": 1000,
}
DUE = (0, 400, 800, 1000)


def evaluation(env_steps, **changes):
    pairs = itertools.product(CONFIG["seeds"], CONFIG["env"]["tasks"])
    return [Evaluation(env_steps, seed, task, 10, 0.1, -1 / 3) for seed, task in pairs]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run, as training leaves it."""
    record = {**manifest([], "cpu", {"name": "mt10"}), "steps": CONFIG["steps"]}
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", CONFIG, record)
    folder.store.small = 0
    ring, events, metrics = Rows(6, 2), EventFile(folder.path, 0), MetricsLog(folder.path)
    for env_steps in DUE:
        ring.add(1, 2, 3)
        folder.append_evaluation(evaluation(env_steps))
        events.add_scalar("speed/updates_per_second", 5, env_steps)
        events.flush()
        metrics.add("speed/updates_per_second", 5, env_steps)
        metrics.flush()
        updates = env_steps // 10
        faults = [Fault("critic", "unsolved", 0, "", updates, env_steps, 3, "count")]
        write_atomic(folder.path / fault_log.NAME, encode_faults(faults))
        folder.save_checkpoint(env_steps, GROUPS, {}, ring=ring)
    report([folder.path])
    return folder.path


@pytest.fixture
def run(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def verdict(run, capsys):
    """The exit code and the problems of every check that has some."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")}
    code = verify.main([str(run), "--json"])
    assert {
        path: (path.stat().st_mtime_ns, path.stat().st_size) for path in run.rglob("*")
    } == before
    found = json.loads(capsys.readouterr().out)
    assert all(each["said"] == each["summary"] for each in found["findings"])
    problems = {each["check"]: each["problems"] for each in found["findings"] if each["problems"]}
    assert found["trusted"] == (code == 0) == (not problems)
    return code, problems


def test_a_sound_run_is_trusted_in_plain_words(run, capsys):
    assert verdict(run, capsys) == (0, {})
    assert verify.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "The report of" in said and "can be trusted" in said and "BAD" not in said
    assert "4 evaluations of 4 pairs of seed and task" in said and "at env_steps 1000, 800" in said


def damage(name, change):
    def apply(run):
        [path] = run.glob(name)
        path.write_bytes(change(path.read_bytes()))

    return apply


def remove(name):
    return lambda run: [path.unlink() for path in run.glob(name)]


@pytest.mark.parametrize(
    ("spoil", "check", "said"),
    [
        (
            damage("config.yaml", lambda b: b.replace(b"every: 400", b"every: 200")),
            "configuration",
            "not the config",
        ),
        (
            damage("manifest.json", lambda b: b.replace(b"config_sha256", b"config_sha257")),
            "configuration",
            "SHA-256",
        ),
        (
            damage("manifest.json", lambda b: b.replace(b'"cpus"', b'"CPUS"')),
            "history",
            "manifest.json does not",
        ),
        (
            damage("evaluations.csv", lambda b: b.replace(b"0.1", b"0.9", 1)),
            "history",
            "evaluations.csv does not begin",
        ),
        (
            damage("evaluations.csv", lambda b: b.replace(b"-0.333", b"nan#", 1)),
            "evaluations",
            "is damaged",
        ),
        (damage("evaluations.csv", lambda b: b[:-1]), "evaluations", "no seed 7, task push-v3"),
        (
            damage("events*", lambda b: b[:-1] + bytes([b[-1] ^ 1])),
            "history",
            "events.out.tfevents",
        ),
        (remove("events*"), "history", "cannot be read"),
        (damage("metrics.csv", lambda b: b.replace(b"5.0", b"6.0", 1)), "history", "metrics.csv"),
        (remove("metrics.csv"), "history", "cannot be read"),
        (
            damage("checkpoints/*1000/agent.safetensors", lambda b: b[:-1] + b"?"),
            "checkpoints",
            "SHA-256",
        ),
        (
            damage("checkpoints/*0800/state.json", lambda b: b + b" "),
            "checkpoints",
            "bytes long, not 2",
        ),
        (
            damage("checkpoints/*0800/index.json", lambda b: b[:-2]),
            "checkpoints",
            "index.json is missing or damaged",
        ),
        (
            damage("checkpoints/segments/*12-*.rows", lambda b: b[1:]),
            "checkpoints",
            ".rows is damaged",
        ),
        (remove("checkpoints/segments/*12-*.rows"), "checkpoints", ".rows cannot be read"),
        (
            lambda run: [shutil.rmtree(path) for path in run.glob("checkpoints/0*")],
            "checkpoints",
            "holds 3 files but no checkpoint",
        ),
        (
            lambda run: shutil.rmtree(next(run.glob("checkpoints/*1000"))),
            "checkpoints",
            "newest is at 800 of 1000",
        ),
        (remove("incidents.csv"), "history", "incidents.csv cannot be read"),
        (
            damage("incidents.csv", lambda b: b + b"actor,non_finite,0,,1,1000,5,skip\n"),
            "history",
            "incidents.csv is damaged",
        ),
        (damage("report.csv", lambda b: b.replace(b"0.1", b"0.9", 1)), "report", "report.csv"),
        (damage("report.png", lambda b: b[:-1] + b"?"), "report", "report.png"),
        (remove("report.png"), "report", "report.png"),
        (remove("report.csv"), "report", "report.csv"),
        (remove("report.sha256"), "report", "report.sha256 is missing"),
        (damage("report.sha256", lambda b: b"\xff"), "report", "cannot be checked"),
        (
            damage("config.yaml", lambda b: b.replace(b"steps: 1000", b"steps: 800")),
            "configuration",
            "steps=800, but the run was to have 1000",
        ),
        (
            damage("evaluations.csv", lambda b: b + b"1400" + b[b.rfind(b"\n1000") + 5 :]),
            "history",
            "rows after the newest checkpoint",
        ),
    ],
)
def test_damage_is_told(run, capsys, spoil, check, said):
    spoil(run)
    code, problems = verdict(run, capsys)
    assert code == 1 and any(said in problem for problem in problems[check]), problems


def published(run):
    """Without checkpoints, with the policy of a seed, as `scripts/publish.py` leaves a run."""
    shutil.rmtree(run / "checkpoints")
    (run / "policies").mkdir()
    (run / "policies" / "policy-1000-seed7.pt2").write_bytes(b"a program")
    digest = hashlib.sha256(b"a program").hexdigest()
    tasks = CONFIG["env"]["tasks"]
    described = {
        "format": FORMAT,
        "program": {"file": "policy-1000-seed7.pt2", "bytes": 9, "sha256": digest},
        "inputs": [{"name": "observations", "dtype": "float32", "shape": ["rows", 41]}],
        "output": {"name": "actions", "dtype": "float32", "shape": ["rows", 4]},
        "tasks": tasks,
        "seed": 7,
        "protocol": {"in_words": "mt10"},
        "training": {"env_steps": 1000},
        "result": {"goals": 10, "success": dict.fromkeys(tasks, 0.1), "mean": 0.1},
        "config": {**CONFIG, "seeds": [7]},
    }
    (run / "policies" / "policy-1000-seed7.json").write_text(json.dumps(described))


def test_a_run_published_without_checkpoints_passes_and_says_so(run, capsys):
    published(run)
    assert verdict(run, capsys) == (0, {})
    verify.main([str(run), "--json"])
    assert json.loads(capsys.readouterr().out)["state"] == "published without checkpoints"
    assert verify.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "published without checkpoints" in said and "unchanged since" not in said
    assert "BAD" not in said and "1 of them record the success rates" in said


@pytest.mark.parametrize(
    ("spoil", "check", "said"),
    [
        (
            damage("config.yaml", lambda b: b.replace(b"every: 400", b"every: 200")),
            "configuration",
            "not the config",
        ),
        (
            damage("evaluations.csv", lambda b: b[: b.rfind(b"1000,0,reach")]),
            "checkpoints",
            "an unfinished run has no checkpoint",
        ),
        (
            damage(
                "evaluations.csv",
                lambda b: b + b[b.index(b"\n1000") + 1 :].replace(b"1000", b"1400"),
            ),
            "evaluations",
            "1400 were evaluated, but the run ends at 1000",
        ),
        (
            damage(
                "evaluations.csv",
                lambda b: b.replace(b"1000,7,push-v3,10,0.1", b"1000,7,push-v3,10,0.9"),
            ),
            "policies",
            "other success rates than evaluations.csv at env_steps 1000 for push-v3",
        ),
        (damage("policies/*.pt2", lambda b: b[:-1] + b"?"), "policies", "SHA-256"),
        (remove("policies/*.pt2"), "policies", "cannot be read"),
        (damage("policies/*.json", lambda b: b[:-3]), "policies", "cannot be checked"),
        (
            damage("policies/*.json", lambda b: b.replace(b"policy-1000-seed7", b"../../secret")),
            "policies",
            "in the same folder",
        ),
    ],
)
def test_damage_of_a_published_run_is_told(run, capsys, spoil, check, said):
    published(run)
    spoil(run)
    code, problems = verdict(run, capsys)
    assert code == 1 and any(said in problem for problem in problems[check]), problems


@pytest.mark.parametrize("run", sorted((ROOT / "results" / "mt10").glob("*/*/config.yaml"))[::6])
def test_the_runs_of_this_repository_verify(run, capsys):
    assert verdict(run.parent, capsys) == (0, {})


def rewritten(change):
    """The evaluations, rearranged by whoever knows the format."""

    def apply(run):
        folder = RunFolder.open(run)
        rows = change(folder.evaluations())
        folder.rewind(None)
        folder.append_evaluation(rows)

    return apply


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:4] + rows[8:], "env_steps 400 was never evaluated"),
        (lambda rows: rows[:5] + rows[6:], "at env_steps 400 there is no seed 0, task push-v3"),
        (
            lambda rows: rows[:5] + rows[4:],
            "at env_steps 400 there is a second seed 0, task reach-v3",
        ),
        (lambda rows: [rows[1], rows[0], *rows[2:]], "at env_steps 0 there is another order"),
        (lambda rows: rows[4:8] + rows[:4] + rows[8:], "env_steps 0 come after 400"),
        (lambda rows: rows[:12], "not finished: evaluated up to 800 of 1000"),
        (lambda rows: [], "not finished: evaluated up to 0 of 1000"),
        (
            lambda rows: [*rows[:-1], Evaluation(1000, 7, "push-v3", 9, 0.1, 1.0)],
            "numbers of episodes differ",
        ),
        (
            lambda rows: [*rows[:-1], Evaluation(1000, 7, "pull-v3", 10, 0.1, 1.0)],
            "an unknown seed 7, task pull-v3",
        ),
        (
            lambda rows: [*rows[:-1], Evaluation(1000, 7, "push-v3", 10, 0.1, float("nan"))],
            "a return is not finite",
        ),
    ],
)
def test_evaluations_with_gaps_doubles_or_in_disorder_are_told(run, capsys, change, said):
    rewritten(change)(run)
    code, problems = verdict(run, capsys)
    assert code == 1 and any(said in problem for problem in problems["evaluations"]), problems


def test_an_extended_run_may_have_an_evaluation_where_it_once_ended(run, capsys):
    folder = RunFolder.open(run)
    folder.extend(1200)
    code, problems = verdict(run, capsys)
    assert code == 1 and problems["evaluations"] == [
        "the run is not finished: evaluated up to 1000 of 1200 env_steps"
    ]
    folder.append_evaluation(evaluation(1200))
    folder.save_checkpoint(1200, GROUPS, {})
    assert verdict(run, capsys) == (0, {})
    verify.main([str(run)])
    assert "off the schedule, at an earlier end of the run: at 1000" in capsys.readouterr().out


def test_versions_and_machine_of_each_resume_are_recorded_and_told(run, capsys):
    folder = RunFolder.open(run)
    here = provenance("cpu")
    add_resume(run, here, env_steps=1000, steps=1100)
    folder.extend(1100)
    other = {**here, "versions": {**here["versions"], "torch": "9.9"}, "processor": "another"}
    add_resume(run, other, env_steps=1000, steps=1200)
    folder.extend(1200)
    folder.append_evaluation(evaluation(1200))
    folder.save_checkpoint(1200, GROUPS, {})
    report([run])
    capsys.readouterr()
    assert verdict(run, capsys) == (0, {})
    verify.main([str(run)])
    [said] = [line for line in capsys.readouterr().out.splitlines() if "9.9" in line]
    assert said.startswith("note") and "after env_steps 1000" in said and "another" in said
    assert here["versions"]["torch"] in said and "numpy" not in said
    kept = (run / resume_log.NAME).read_bytes()
    for content, check in (
        (kept[:-2], "history"),
        (b"{}\n" + kept, "history"),
        (b"[]\n", "manifest"),
    ):
        (run / resume_log.NAME).write_bytes(content)
        code, problems = verdict(run, capsys)
        assert code == 1 and check in problems
    (run / resume_log.NAME).write_bytes(kept)
    RunFolder.open(run).extend(1100)
    assert "configuration" in verdict(run, capsys)[1]


def test_a_report_of_an_earlier_end_is_a_note(run, capsys):
    folder = RunFolder.open(run)
    folder.extend(1200)
    folder.append_evaluation(evaluation(1200))
    folder.save_checkpoint(1200, GROUPS, {})
    assert verdict(run, capsys) == (0, {})
    verify.main([str(run)])
    assert "report.csv differs" in capsys.readouterr().out


def test_metrics_that_no_checkpoint_covers_are_a_note(run, capsys):
    damage("metrics.csv", lambda b: b + b"1000,wall_seconds,9.0\n")(run)
    assert verify.main([str(run)]) == 0
    assert "metrics.csv has rows after the newest checkpoint" in capsys.readouterr().out


def test_leftovers_of_a_killed_process_are_a_note(run, capsys):
    (run / "checkpoints" / ".000000001400.tmp").mkdir()
    (
        run / "checkpoints" / "segments" / "000000000000-000000000009-0123456789abcdef.rows"
    ).write_bytes(b"")
    assert verdict(run, capsys) == (0, {})
    verify.main([str(run)])
    assert "2 files of a process that was killed" in capsys.readouterr().out


def test_a_configuration_that_makes_no_sense_is_no_crash(run, capsys):
    (run / "config.yaml").write_text("{}")
    code, problems = verdict(run, capsys)
    assert code == 1 and {"configuration", "evaluations"} <= problems.keys()
    for text in ("steps: [1]\neval: 7\nenv: x\nseeds: 0", "steps: 9\neval: {every: 0}"):
        (run / "config.yaml").write_text(text)
        assert verify.main([str(run)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_run_is_one_sentence(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_nothing_of_the_learner_is_imported():
    """`verify` answers at once: nothing it imports loads PyTorch or the simulators."""
    script = (
        "import sys, types; package = types.ModuleType('mtrl_fairgrad'); package.__path__ = "
        "['mtrl_fairgrad'];sys.modules['mtrl_fairgrad'] = package; import mtrl_fairgrad.verify;"
        "print(sorted({'torch', 'safetensors', 'mujoco', 'tensorboard', 'hydra'} & "
        "sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
