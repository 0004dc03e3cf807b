"""Processes of training and of simulators: start them and wait for what they do."""

import contextlib
import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from tests.support.paths import ROOT


def alive(pids):
    """Those of `pids` that still run; one that nobody has waited for yet (a zombie) does not."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        running += [pid] * (state not in "ZX")
    return running


def wait_until_gone(pids, seconds=5.0):
    deadline = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


def start_training(configuration, folder, *arguments):
    """A process that trains; its output is piped."""
    command = [
        sys.executable,
        "-m",
        "mtrl_fairgrad.train",
        *configuration,
        f"run_dir={folder}",
        *arguments,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_checkpoint(folder, process, at_least=40):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read()
        steps = [int(p.name.split("-")[0]) for p in (folder / "checkpoints").glob("0*")]
        if steps and max(steps) >= at_least:
            return
        time.sleep(0.05)
    raise AssertionError("no checkpoint within two minutes")


@contextlib.contextmanager
def two_processes(rank, folder):
    """In each of two processes of `torch.multiprocessing.spawn`: their default group, by gloo."""
    import torch
    import torch.distributed as dist

    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # whatever the machine's name resolves to
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
