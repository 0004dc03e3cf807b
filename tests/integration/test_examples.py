"""Every script of examples/ runs and does what it says."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
TRAINED = ("two_heads", "accumulation_and_amp", "own_method", "train_mt10")


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(TRAINED)


def test_fairgrad_improves_the_task_that_the_sum_neglects():
    left = [
        [float(part) for part in re.findall(r"([\d.]+)%", line)]
        for line in run("two_heads").splitlines()
    ]
    (sum_first, sum_second), (_, fair_second) = left
    assert sum_first < 10 and fair_second < sum_second / 2


def test_accumulation_with_mixed_precision_trains():
    losses = [
        float(loss) for loss in re.findall(r"mean loss ([\d.]+)", run("accumulation_and_amp"))
    ]
    assert losses[-1] < losses[0] / 2


def test_the_own_method_gives_every_gradient_the_same_length():
    lengths, weights = (
        [float(number) for number in re.findall(r"[\d.]+(?:e-?\d+)?", line)]
        for line in run("own_method").splitlines()
    )
    products = [length * weight for length, weight in zip(lengths, weights, strict=True)]
    assert products == pytest.approx([1, 1]) and lengths[1] > 10 * lengths[0]


def test_the_own_method_is_a_word_of_the_command_line():
    assert "name: inverse_norm" in run("own_method", "--cfg", "job")


def test_mt10_is_trained_and_its_results_are_read(tmp_path):
    options = ["env.tasks=[reach-v3,drawer-close-v3]", "steps=20", "eval.every=10"]
    small = ["env.horizon=10", "eval.episodes=1", "eval.workers=0", "env.workers=0"]
    agent = ["agent.width=8", "agent.batch_size=4", "agent.warmup_steps=4", "agent.buffer_size=64"]
    example = load("train_mt10")
    success = example.main([*options, *small, *agent, "progress=false"], tmp_path / "run")
    assert list(success) == [0, 10, 20] and all(0 <= rate <= 1 for rate in success.values())
    again = example.main([*options, *small, *agent, "progress=false"], tmp_path / "run")
    assert again == success  # a finished run is left as it is
