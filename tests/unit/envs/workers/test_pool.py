import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from mtrl_fairgrad.envs.metaworld import MetaworldSuite, MetaworldVectorEnv
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.envs.workers.load_balancing import balance_load
from mtrl_fairgrad.envs.workers.pool import InProcessPool, WorkerError, WorkerLost, WorkerPool
from tests.support.paths import ROOT
from tests.support.processes import alive, wait_until_gone

ROWS = [Slot(0, "reach-v3", 0, 3), Slot(1, "drawer-close-v3", 1, 3)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_names_where_it_happened(workers):
    suite = MetaworldSuite(horizon=5)
    pool = (
        WorkerPool(balance_load(ROWS, workers), suite, "train")
        if workers
        else InProcessPool(ROWS, suite, "train")
    )
    try:
        pool.start("reset")
        assert pool.finish() == {}
        states = {row: {"goal": 0, "generator": {"bit_generator": "none such"}} for row in (0, 1)}
        pool.start("set_state", states)
        with pytest.raises(WorkerError) as caught:
            pool.finish()
    finally:
        pool.close()
    message = str(caught.value)
    assert message.startswith("the environment of task reach-v3, seed 3 raised ValueError: ")
    assert "Traceback (most recent call last)" in message and "in set_state" in message


def test_an_error_while_building_ends_the_construction():
    with pytest.raises(
        WorkerError, match="the environment of task no-such-task, seed 3 raised KeyError"
    ):
        WorkerPool([[ROWS[0]], [Slot(1, "no-such-task", 1, 3)]], MetaworldSuite(), "train")
    assert not [each for each in active_children() if each.name.startswith("envs-")]


@pytest.mark.parametrize("when", ["idle", "stepping"])
def test_a_killed_worker_is_noticed_and_named(when):
    envs = MetaworldVectorEnv(["reach-v3", "drawer-close-v3"], [3], workers=2)
    envs.reset()
    victim = next(each for each in active_children() if each.name == "envs-1")
    if when == "stepping":
        os.kill(victim.pid, signal.SIGSTOP)  # so that it is certainly in the middle of the step
        envs.step_async(np.zeros((2, 4)))
    os.kill(victim.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(
        WorkerLost,
        match=r"worker 1 .*exit code -9 \(SIGKILL\), it hosted task drawer-close-v3, seed 3",
    ):
        envs.step_wait() if when == "stepping" else envs.step(np.zeros((2, 4)))
    assert time.monotonic() - start < 5
    assert [each.name for each in active_children() if each.name.startswith("envs-")] == ["envs-0"]
    with pytest.raises(ResetNeeded):
        envs.step(np.zeros((2, 4)))
    envs.close()


def test_closing_does_not_wait_for_a_stuck_worker():
    envs = MetaworldVectorEnv(["reach-v3"], [3], workers=1)
    pid = next(each.pid for each in active_children() if each.name == "envs-0")
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    envs.close()
    assert time.monotonic() - start < 5 and not alive([pid])


def test_an_interrupted_wait_can_be_taken_up_again():
    envs = MetaworldVectorEnv(["reach-v3", "drawer-close-v3"], [3], workers=2)
    with envs:
        envs.reset()
        worker = next(each for each in active_children() if each.name == "envs-1")
        os.kill(worker.pid, signal.SIGSTOP)
        envs.step_async(np.zeros((2, 4)))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                envs.step_wait()
        finally:
            signal.signal(signal.SIGALRM, previous)
        os.kill(worker.pid, signal.SIGCONT)
        first = envs.step_wait()[0]
        assert np.isfinite(first).all() and np.isfinite(envs.step(np.zeros((2, 4)))[0]).all()


def test_readiness_is_asked_without_waiting_for_a_busy_worker():
    with MetaworldVectorEnv(["reach-v3", "drawer-close-v3"], [3], workers=2) as envs:
        envs.reset()
        assert envs.ready(), "no step is running"
        worker = next(each for each in active_children() if each.name == "envs-1")
        os.kill(worker.pid, signal.SIGSTOP)
        envs.step_async(np.zeros((2, 4)))
        start = time.monotonic()
        assert not envs.ready(0.3) and not envs.ready() and 0.3 <= time.monotonic() - start < 2
        os.kill(worker.pid, signal.SIGCONT)
        assert envs.ready(60) and envs.ready(), "asked again, it is so still"
        assert np.isfinite(envs.step_wait()[0]).all()
        os.kill(worker.pid, signal.SIGSTOP)  # it might answer before it dies
        envs.step_async(np.zeros((2, 4)))
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerLost, match=r"worker 1 .*\(SIGKILL\)"):
            envs.ready(60)
    assert envs.ready(), "nothing is left to wait for"


def program(folder, body):
    """Start a program file without the usual main guard; its first line of output holds the
    workers' pids.
    """
    text = f"""
import signal, sys, time
from multiprocessing import active_children
import numpy as np
print("loaded as", __name__, file=sys.stderr, flush=True)
from mtrl_fairgrad.envs.metaworld import MetaworldVectorEnv
envs = MetaworldVectorEnv(["reach-v3", "drawer-close-v3"], [0], workers=2)
envs.reset()
print(*[each.pid for each in active_children()], flush=True)
{body}
"""
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    file = folder / "learner.py"
    file.write_text(text)
    command = [sys.executable, str(file)]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=path,
    )
    pids = [int(pid) for pid in started.stdout.readline().split()]
    assert len(pids) == 2
    return started, pids


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
class TestWithAProgram:
    def test_no_worker_outlives_a_killed_learner(self, tmp_path):
        learner, pids = program(tmp_path, "while True: envs.step(np.zeros((2, 4)))")
        learner.kill()
        assert wait_until_gone(pids)
        assert not list(Path("/dev/shm").glob(f"pym-{learner.pid}-*")), (
            "no shared memory is left behind"
        )
        assert learner.communicate(timeout=5)[1].count("Traceback") == 0

    def test_no_worker_outlives_a_killed_learner_though_it_be_stopped(self, tmp_path):
        learner, pids = program(
            tmp_path, "envs.step_async(np.zeros((2, 4)))\nenvs.step_wait()\ntime.sleep(60)"
        )
        os.kill(pids[0], signal.SIGSTOP)
        learner.kill()
        try:
            assert wait_until_gone(pids)
        finally:
            os.kill(pids[0], signal.SIGKILL)
        learner.communicate(timeout=5)

    def test_a_stopped_worker_of_forgotten_environments_holds_up_no_exit(self, tmp_path):
        learner, pids = program(
            tmp_path,
            "import os\nos.kill(active_children()[0].pid, signal.SIGSTOP)\n"
            "kept = envs.__dict__\ndel envs\nprint('forgotten', flush=True)",
        )
        start = time.monotonic()
        learner.communicate(timeout=20)
        assert learner.returncode == 0 and time.monotonic() - start < 10 and not alive(pids)

    def test_no_worker_outlives_a_learner_that_a_fork_survives(self, tmp_path):
        """The fork holds our pipes open, so no end of file comes."""
        learner, pids = program(
            tmp_path,
            "import os\nif os.fork() == 0: time.sleep(60)\nelse: print('forked', "
            "flush=True)\ntime.sleep(60)",
        )
        try:
            assert learner.stdout.readline() == "forked\n"
            learner.kill()
            assert wait_until_gone(pids)
        finally:
            os.killpg(learner.pid, signal.SIGKILL)

    def test_workers_import_nothing_of_the_program_and_leave_at_its_end(self, tmp_path):
        """Without close: interpreter exit does it, quickly and without a word."""
        learner, pids = program(tmp_path, "envs.step_async(np.zeros((2, 4)))")
        start = time.monotonic()
        _, errors = learner.communicate(timeout=10)
        assert learner.returncode == 0 and time.monotonic() - start < 5 and not alive(pids)
        assert errors.splitlines() == ["loaded as __main__"]

    def test_signals_to_the_whole_group_stop_only_the_learner(self, tmp_path):
        learner, pids = program(
            tmp_path,
            "caught = []\n"
            "asked = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]\n"
            "for each in asked: signal.signal(each, lambda number, frame: caught.append(number))\n"
            "print('ready', flush=True)\n"
            "while len(set(caught)) < len(asked): time.sleep(0.01)\n"
            "time.sleep(0.3); envs.step(np.zeros((2, 4))); print('stepped'); envs.close()",
        )
        assert learner.stdout.readline() == "ready\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            os.killpg(learner.pid, number)
        output, errors = learner.communicate(timeout=10)
        assert output == "stepped\n" and learner.returncode == 0 and "Traceback" not in errors
        assert not alive(pids)
