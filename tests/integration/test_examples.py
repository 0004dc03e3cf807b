"""Every script of examples/, and the notebook, runs and does what it says."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
TESTED = {
    "accumulation_and_amp",
    "ddp",
    "first_steps",
    "fsdp",
    "mt1_in_two_minutes",
    "own_environment",
    "own_method",
    "own_network",
    "pinn",
    "report_from_python",
    "sb3_sac",
    "shared_encoder",
    "transformer_lora",
    "vector_env",
}
TINY = (
    "agent.width=8",
    "agent.batch_size=4",
    "agent.warmup_steps=4",
    "agent.buffer_size=64",
    "steps=20",
    "eval.every=10",
    "eval.episodes=1",
    "eval.workers=0",
    "env.workers=0",
    "env.horizon=10",
    "env.train_horizon=null",
    "progress=false",
)


def load(name):
    """The module of an example, which other modules can import by its name too."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


def run(name, *arguments, launcher=(), cwd=ROOT):
    """What an example prints; loopback suffices for processes that meet."""
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def torchrun(name):
    """What an example prints in two processes, whose lines may run into each other."""
    return run(name, launcher=["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"])


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


def rates(run):
    return run.evaluations["env_steps"].tolist(), run.evaluations["success"]


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")} == TESTED


# ---- the library ----


def test_fairgrad_improves_the_task_that_the_sum_neglects():
    left = [
        [float(part) for part in re.findall(r"([\d.]+)%", line)]
        for line in run("shared_encoder").splitlines()
    ]
    (sum_first, sum_second), (_, fair_second) = left
    assert sum_first < 10 and fair_second < sum_second / 2


def test_accumulation_with_mixed_precision_trains():
    losses = numbers(" ".join(re.findall(r"mean loss \S+", run("accumulation_and_amp"))))
    assert losses[-1] < losses[0] / 2


@pytest.mark.exhaustive
def test_the_adapted_transformer_learns_and_its_frozen_weights_stay(capsys):
    accuracy = load("transformer_lora").main()
    adapted, frozen = map(int, re.findall(r"(\d+) (?:shared|frozen)", capsys.readouterr().out))
    assert sum(accuracy) / 3 > 0.75 and adapted < frozen / 3


@pytest.mark.exhaustive
def test_two_processes_take_the_step_of_one(capsys):
    checksum, losses = load("ddp").train(0, 1)
    said = re.findall(r"sum to ([\d.]+), losses ([\d.]+), ([\d.]+)", torchrun("ddp"))
    (mine, *lost), (other, *more) = (map(float, each) for each in said)
    assert mine == other == pytest.approx(checksum, abs=1e-4)
    means = [(a + b) / 2 for a, b in zip(lost, more, strict=True)]
    assert means == pytest.approx(losses, abs=2e-3)


@pytest.mark.exhaustive
def test_a_sharded_encoder_learns_what_a_whole_one_does():
    expected = load("fsdp").train(False, 0, 1)
    said = torchrun("fsdp")
    assert re.search(r"losses of the whole batch: (.*)", said)
    assert numbers(said) == pytest.approx(expected, abs=1e-3)
    held = [tuple(map(int, each)) for each in re.findall(r"holds (\d+) of (\d+)", said)]
    assert sum(part for part, _ in held) == held[0][1] and len(held) == 2


def test_fairgrad_solves_the_equation_in_a_few_steps():
    assert load("pinn").train(True, 400) < 0.2


@pytest.mark.exhaustive
def test_fairgrad_comes_nearer_to_the_solution_than_the_sum():
    plain, fair = numbers(run("pinn"))
    assert fair < plain < 0.1


def test_the_own_method_gives_every_gradient_the_same_length():
    lengths, weights = map(numbers, run("own_method").splitlines())
    products = [length * weight for length, weight in zip(lengths, weights, strict=True)]
    assert products == pytest.approx([1, 1]) and lengths[1] > 10 * lengths[0]


def test_the_own_method_is_a_word_of_the_command_line():
    assert "name: inverse_norm" in run("own_method", "--cfg", "job")


# ---- the simulators ----


def test_the_strangers_algorithm_runs_on_the_simulators():
    curve = load("vector_env").main("MT1-reach", 1600)
    assert len(curve) == 2


@pytest.mark.exhaustive
def test_the_strangers_algorithm_learns_on_the_simulators():
    curve = load("vector_env").main()
    assert curve[-1] > 1.2 * curve[0]


@pytest.mark.exhaustive
def test_stable_baselines3_trains_on_the_simulators():
    pytest.importorskip("stable_baselines3")
    assert load("sb3_sac").main(steps=1000).num_timesteps == 1000


# ---- the agent ----


@pytest.mark.usefixtures("no_reports")
def test_own_environments_are_trained(tmp_path):
    options = [word for word in TINY if "horizon" not in word]
    trained = load("own_environment").main(*options, folder=tmp_path / "run")
    steps, success = rates(trained)
    assert steps == [0, 0, 10, 10, 20, 20] and ((success >= 0) & (success <= 1)).all()


@pytest.mark.exhaustive
def test_own_environments_are_learned(tmp_path):
    _, success = rates(trained := load("own_environment").main(folder=tmp_path / "run"))
    assert trained.success > max(0.5, success[:2].mean())


@pytest.mark.exhaustive
@pytest.mark.usefixtures("no_reports")
def test_the_own_network_is_trained_and_resumes(tmp_path):
    example = load("own_network")
    trained = example.main(*TINY, folder=tmp_path / "run")
    assert trained.config.agent.network == "gated"
    again = example.main(*TINY, folder=tmp_path / "run")  # a finished run is left as it is
    assert rates(again)[1].tolist() == rates(trained)[1].tolist()


@pytest.mark.usefixtures("no_reports")
def test_mt1_is_trained_and_its_policy_plays(tmp_path):
    example = load("mt1_in_two_minutes")
    trained = example.main(*TINY, "env.copies=1", folder=tmp_path / "run")
    assert rates(trained)[0] == [0, 10, 20]
    assert 0 <= example.play(trained.path, episodes=2, horizon=5) <= 1


@pytest.mark.exhaustive
def test_mt1_is_learned(tmp_path):
    example = load("mt1_in_two_minutes")
    trained = example.main(folder=tmp_path / "run")
    assert trained.success > 0.5 and example.play(trained.path) > 0.5


@pytest.mark.exhaustive
@pytest.mark.usefixtures("no_reports")
def test_two_methods_are_compared_from_python(tmp_path, capsys):
    load("report_from_python").main(*TINY, folder=tmp_path)
    said = capsys.readouterr().out
    assert re.search(r"^fairgrad +drawer-close-v3 +success [01]\.\d\d", said, re.MULTILINE)
    files = [tmp_path / "report" / name for name in ("report.csv", "index.html", "tables.tex")]
    assert all(path.stat().st_size > 500 for path in files)


# ---- the notebook ----

NOTEBOOK = EXAMPLES / "first_steps.ipynb"


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.exhaustive
def test_the_code_of_the_notebook_runs(monkeypatch):
    """Without Jupyter, so that it runs wherever the tests do."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {"__name__": "__main__"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert len(names["run"].evaluations) == 8
    assert names["infos"]["final_info"]["_episode"].all()


@pytest.mark.exhaustive
def test_the_notebook_runs_in_jupyter():
    nbclient, nbformat = map(pytest.importorskip, ("nbclient", "nbformat"))
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.get("data", {}) for output in outputs]
    assert any("image/png" in data for data in shown)  # the curves
    assert any("drawer-close-v3" in data.get("text/html", "") for data in shown)  # evaluations
