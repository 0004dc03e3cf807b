"""Memory of whole processes with FairGrad."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT, SCRIPTS

SCRIPT = SCRIPTS / "benchmark_memory.py"


def test_the_limit_holds_for_whole_processes(tmp_path):
    size = ["--width", "32", "--batch", "2", "--steps", "2", "--others"]
    command = [sys.executable, str(SCRIPT), *size, "--json", str(tmp_path / "found.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    beyond = {row["case"]: row["jacobians_beyond_ls"] for row in found["rows"]}
    assert beyond["ls"] == 0 and 0.8 < beyond["fairgrad:1"] <= 1.25


MEASURE = """
import sys
import torch
from mtrl_fairgrad.agents import Transition
from mtrl_fairgrad.envs.metaworld import MetaworldSuite
from mtrl_fairgrad.training.factory import make_learner
from mtrl_fairgrad.training.memory import NETWORKS, estimate
from mtrl_fairgrad.config.env import task_names
from tests.support.tiny_runs import composed

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))

def update(config):
    generator = torch.Generator().manual_seed(0)
    learner = make_learner(config, 10, 49, 4, torch.device("cpu"))
    lead = len(config.seeds), 1, 10
    draw = lambda *shape: torch.randn(*lead, *shape, generator=generator)
    for n in range(4):
        none = torch.zeros(lead)
        learner.store(Transition(draw(49), draw(4).tanh(), draw(), draw(49), none, none))
        learner.learn(n + config.agent.warmup_steps)
        learner.report()
    return learner

torch.set_num_threads(1)
word, *more = sys.argv[1:]
small = ["agent.warmup_steps=1", "agent.buffer_size=100", "agent.batch_size=32"]
update(composed(word, "agent.width=8", *small))
before = status("VmRSS")
config = composed(word, *more, *small)
config.env.tasks = list(task_names(config.env))
suite = MetaworldSuite(tasks=tuple(config.env.tasks))
learner = update(config)
print(status("VmHWM") - before, estimate(config, suite, torch.device("cpu")).host[NETWORKS])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("method", ["ls", "fairgrad", "gradvac", "graddrop", "moco", "db_mtl"])
def test_what_a_learner_is_estimated_to_need_is_what_it_needs(method):
    words = [f"method={method}", "agent.width=1024", "seeds=[0,1]"]
    command = [sys.executable, "-c", MEASURE, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    measured, estimated = map(int, done.stdout.split())
    assert 0.8 < estimated / measured < 1.3, (measured, estimated)
