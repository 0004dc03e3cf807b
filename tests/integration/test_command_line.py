"""The command line: what is imported, which words pass, what a stranger's run folder may say."""

import json
import os
import subprocess
import sys

import pytest

import mtrl_fairgrad
from mtrl_fairgrad import evaluate, method_names, method_options, report, train, verify
from mtrl_fairgrad.cli.override_filter import (
    MAX_DEPTH,
    MAX_WORD_LENGTH,
    check_stored,
    filter_overrides,
)
from mtrl_fairgrad.config.groups import config_group
from mtrl_fairgrad.config.schema import to_dict
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.utils.arguments import fail
from mtrl_fairgrad.utils.safe_load import MAX_BYTES, read_mapping
from mtrl_fairgrad.utils.validation import MAX_MESSAGE_LENGTH, ConfigError, one_line
from tests.support.errors import refused
from tests.support.fuzzing import BOMB
from tests.support.paths import ROOT
from tests.support.tiny_runs import ONE, TASKS, TINY, composed

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}


@pytest.fixture
def run(tmp_path):
    """A run's folder without a checkpoint."""
    config = to_dict(composed(*TINY))
    config["env"]["tasks"] = TASKS
    return RunFolder.create(tmp_path / "run", config, {"overrides": TINY, "device": "cpu"})


# ---- what is imported ----

LIGHT = """
import sys
from importlib import import_module
for line in sys.stdin.read().splitlines():
    module, code, *words = line.split("\\t")
    try:
        found = import_module(module).main(words)
    except SystemExit as ended:
        found = ended.code or 0
    heavy = {"torch", "mujoco", "metaworld", "gymnasium", "scipy", "tensorboard", "matplotlib"}
    heavy &= sys.modules.keys()
    assert found == int(code) and not heavy, (line, found, heavy)
"""


def test_mistakes_and_help_import_neither_pytorch_nor_simulators(run):
    """One process takes all lines, so that what it imported for one is seen in the next."""
    lines = [
        ("train", 2, "agnt.width=3"),
        ("train", 2, "method=farigrad"),
        ("train", 2, "agent.width=0"),
        ("train", 2, "seeds=["),
        ("train", 2, "--foo"),
        ("train", 2, "device=tpu"),
        ("train", 2, "method=ls", "alpha=2"),
        ("train", 2, "method.alhpa=2"),
        ("train", 2, "env.tasks=[rech-v3]"),
        ("train", 2, "env=mt1"),
        ("train", 2, "resume=/nowhere"),
        ("train", 2, f"run_dir={run.path}"),
        ("train", 2, f"resume={run.path}", "agent.width=17"),
        ("train", 2, f"resume={run.path}", "hydra.run.dir=x"),
        ("train", 0, "--help"),
        *((name, 2, "/nowhere") for name in ("evaluate", "report", "verify")),
        *((name, 0, "--help") for name in ("evaluate", "report", "verify")),
        ("search", 2, "alpha=3"),
        ("supervised.__main__", 2, "epohcs=3"),
        ("supervised.__main__", 2, "epochs=0"),
        ("supervised.__main__", 2, "benchmark=digit"),
        ("supervised.__main__", 2, "seeds=[1,1]"),
        ("supervised.__main__", 0, "--help"),
    ]
    typed = "\n".join(
        "\t".join(["mtrl_fairgrad." + name, *map(str, words)]) for name, *words in lines
    )
    command = [sys.executable, "-c", LIGHT]
    found = subprocess.run(
        command,
        input=typed,
        cwd=run.path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert len(found.stderr.splitlines()) == sum(line[1] == 2 for line in lines), (
        "a sentence for each mistake"
    )


def test_the_package_offers_its_names_before_it_has_them():
    offered = {name: getattr(mtrl_fairgrad, name) for name in mtrl_fairgrad.__all__}
    assert offered.keys() <= set(dir(mtrl_fairgrad))
    assert offered["FairGrad"] is mtrl_fairgrad.weighting.FairGrad and callable(offered["backward"])
    with pytest.raises(AttributeError, match="has no attribute 'FairGard'"):
        _ = mtrl_fairgrad.FairGard
    code = "from mtrl_fairgrad import *; backward; FairGrad(alpha=2); print(len(method_names()))"
    found = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert found.stdout.strip() == str(len(config_group("method"))), found.stderr


def test_the_files_say_what_the_registry_says():
    for name, keys in config_group("method").items():
        assert list(keys) == ["name", *method_options(name)], name
    assert set(config_group("method")) == set(method_names())


# ---- which words pass ----


def test_what_is_needed_passes_flags_first():
    words = [
        "agent.width=8",
        "-m",
        "+method.new=1",
        "env.task_options=[{g: 5}]",
        "hydra/launcher=slurm",
        "method=ls,uw",
    ]
    words += [
        "hydra.launcher.n_jobs=2",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.exclude='node[1-3]'",
        "hydra.launcher.ray.init.address=auto",
        "hydra.sweep.dir=x/${now:%Y}/${hydra.job.name}",
        "critic=${agent.width}",
        "--cfg",
        "job",
        "run_dir=a/b c",
    ]
    assert filter_overrides(words) == [
        "-m",
        "--cfg",
        "job",
        *(word for word in words if word not in ("-m", "--cfg", "job")),
    ]
    assert filter_overrides(["-sc", "install=bash"]) == ["-sc", "install=bash"]


@pytest.mark.parametrize(
    "words",
    [
        ["hydra.launcher._target_=os.system"],
        ["hydra/launcher=slurm", "hydra.launcher.setup=['touch x']"],
        ["hydra.launcher.additional_parameters.wrap=x"],
        ["hydra.launcher.srun_args=[--prolog,x]"],
        ["hydra.launcher.submitit_folder=x"],
        ["hydra.launcher.temp_folder=x"],
        ["hydra.launcher.pre_dispatch='__import__(x)'"],
        ["hydra.launcher.backend=x"],
        ["hydra.launcher.ray.init.address=stranger:6379"],
        ["+hydra.launcher.ray.init.runtime_env.py_executable=x"],
        ["hydra.launcher.comment=${x}"],
        ["hydra.sweep.dir=${oc.create:'x'}"],
        ["hydra.sweep.subdir=${x.y}"],
        ["hydra.sweep.subdir=../x"],
        ["hydra.sweep.subdir='/tmp/x'"],
        ["hydra.sweep.dir=${now:${oc.create:x}}"],
        ["++hydra.launcher.ray.init={_target_: os.mkdir, path: x}"],
        ["+hydra.launcher.x=${oc.decode:'{_tar${oc.env:NO,''}get_: os.mkdir}'}"],
        ["hydra.sweeper._target_=os.system"],
        ["+hydra.callbacks.x={_target_: os.mkdir, path: x}"],
        ["hydra.job_logging.handlers.file.class=os.mkdir"],
        ["hydra={launcher: {_target_: os.mkdir}}"],
        ["hydra/job_logging=default"],
        ["hydra/launcher=../../../x"],
        ["hydra.searchpath=[file:///tmp]"],
        ["hydra.run.dir=x"],
        ["hydra.output_subdir=x"],
        ["preset=../../../tmp/x"],
        ["+method@hydra.launcher=ls"],
        ["--config-dir=/tmp"],
        ["-cd", "/tmp"],
        ["--experimental-rerun", "x"],
        ["--experimental-rerun=x"],
        ["~agent.width"],
        ["~agent.width=400"],
        ["-sc", "install=bash", "x=1"],
        ["a=\x1b[2J"],
        ["a=" + "[" * (MAX_DEPTH + 1)],
        ["a=" + "x" * MAX_WORD_LENGTH],
    ],
    ids=lambda words: words[0][:40],
)  # fmt: skip
def test_what_could_run_code_or_write_elsewhere_does_not_pass(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        filter_overrides(words)
    assert train.main([*TINY, *words]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not list(tmp_path.iterdir())


def test_a_sentence_stays_one_line_of_a_terminal(capsys):
    assert one_line("α\n\x1b[2J\u202e\udc80") == "α\\n\\x1b[2J\\u202e\\udc80"
    assert fail("x" * 10_000 + "end") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < MAX_MESSAGE_LENGTH + 20 and said.endswith("end\n")


LONG = "a" * 6000


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (train, [f"resume={LONG}"]),
        (train, [*TINY, f"run_dir={LONG}"]),
        (train, [*TINY, f"run_dir={'/'.join([LONG[:200]] * 30)}", "resume=auto"]),
        (train, [*TINY, f"{LONG}=1"]),
        (evaluate, [LONG]),
        (evaluate, [f"{LONG}.json"]),
        (report, [LONG]),
        (report, ["x", "--html", LONG]),
        (verify, ["/".join([LONG[:200]] * 30)]),
    ],
    ids=range(9),
)
def test_a_path_or_word_of_any_length_ends_in_one_sentence(command, words, capsys):
    assert command.main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---- what a stranger's folder may say ----


@pytest.mark.parametrize(
    "stored",
    [
        "agent.width=16",
        [3],
        ["-m"],
        ["--experimental-rerun=x"],
        ["hydra.launcher._target_=os.system"],
        ["++hydra.launcher.n_jobs=2"],
        ["hydra/launcher=slurm"],
        ["hydra.sweep.dir=/tmp"],
        ["+hydra.callbacks.x={_target_: os.mkdir, path: ran}"],
        ["preset=../../x"],
        ["agent.width=${oc.env:HOME}"],
        ["agent.width"],
        ["seeds=[0]"] * 20_000,
        ["a=" + "${" * 100_000],
    ],
    ids=range(14),
)
def test_a_stored_run_has_options_of_ours_alone(stored, run, monkeypatch, capsys):
    monkeypatch.chdir(run.path)
    manifest = run.path / "manifest.json"
    manifest.write_text(json.dumps({**run.manifest, "overrides": stored}))
    assert train.main(["resume=."]) == 2
    said = capsys.readouterr().err
    assert said.startswith(("error: resume=.: ", "error: manifest.json is damaged"))
    assert not (run.path / "ran").exists()


@pytest.mark.parametrize("word", ["agent.width=${oc.env:WIDTH}", "+seeds=[${oc.decode:'1'}]"])
def test_what_a_stored_run_may_not_have_is_refused_at_the_start(word, monkeypatch, tmp_path):
    monkeypatch.setenv("WIDTH", "16")
    with refused(word.partition("=")[0], word.partition("=")[2]):
        train.start(composed("agent.width=16", f"run_dir={tmp_path / 'r'}"), [word])


def test_a_stored_run_may_refer_from_one_option_to_another():
    check_stored(["agent.critic_width=${agent.width}", *TINY])


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: !!python/object/apply:os.mkdir [ran]",
        "a: !!python/name:os.system",
        "a: &x [1]\nb: *x",
        "a: 2020-01-01",
        "1: 2",
        "[" * 10_000,
        "a: \0",
        "a: !!bool x",
        "a: !!int ''",
        "a: !!timestamp x",
        f"a: 1{':1' * 400}.5",
        'a: "\\UFFFFFFFF"',
        f"a: {'x' * MAX_BYTES['.yaml']}",
    ],
    ids=lambda text: text[:20],
)
def test_a_configuration_is_plain_and_small(text, run, monkeypatch, capsys):
    monkeypatch.chdir(run.path)
    (run.path / "config.yaml").write_text(text)
    with pytest.raises(ValueError):
        read_mapping(run.path / "config.yaml")
    for command, word in ((train, "resume=."), (evaluate, "."), (report, "."), (verify, ".")):
        assert command.main([word]) == 2
        error = capsys.readouterr().err
        assert "config.yaml is damaged" in error or "config.yaml has more than" in error
    assert not (run.path / "ran").exists()


def test_a_stored_configuration_does_not_look_at_this_machine(run, monkeypatch, capsys):
    monkeypatch.setenv("SECRET", "mine")
    path = run.path / "config.yaml"
    path.write_text(path.read_text().replace("name: mt10\n", "name: ${oc.env:SECRET}\n"))
    assert evaluate.main([str(run.path)]) == 2
    said = capsys.readouterr().err
    assert "interpolations" in said and "mine" not in said


# ---- the network ----

NOTED = """
import sys
def note(event, given):
    if event in ("socket.bind", "socket.listen") and not isinstance(given[-1], (str, bytes)):
        with open({path!r}, "a") as file:
            file.write(f"{{event}} {{given}}\\n")
sys.addaudithook(note)
"""


@pytest.mark.exhaustive
def test_training_opens_no_port(tmp_path):
    """Neither the learner nor a simulator process binds a socket of a network; those of files
    (AF_UNIX) stay here.
    """
    (tmp_path / "sitecustomize.py").write_text(NOTED.format(path=str(tmp_path / "seen")))
    environment = {
        **ENVIRONMENT,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]]),
    }
    tiny = [word for word in [*TINY, *ONE] if not word.startswith(("env.workers", "steps"))]
    command = [
        sys.executable,
        "-m",
        "mtrl_fairgrad.train",
        *tiny,
        "env.workers=1",
        "steps=20",
        f"run_dir={tmp_path / 'r'}",
    ]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    assert not (tmp_path / "seen").exists(), (tmp_path / "seen").read_text()
    probe = "import socket; socket.socket().bind(('127.0.0.1', 0))"
    subprocess.run([sys.executable, "-c", probe], env=environment, check=True, timeout=60)
    assert (tmp_path / "seen").exists(), "it would have been seen"
