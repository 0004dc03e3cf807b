"""A step's peak memory: apart from the Jacobian little more than an ordinary backward pass."""

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mtrl_fairgrad import Accumulator, Convention, backward, jacobian_like, make_method
from mtrl_fairgrad.gradients.shared_graph.grad_writer import largest
from mtrl_fairgrad.supervised.benchmarks.celeba import CelebA
from tests.support.paths import SCRIPTS

SCRIPT = SCRIPTS / "benchmark_memory.py"
OFFICIAL = Convention("weighted_losses", "tasks", 1.0)


@cache
def peak(name, tasks_per_pass=None, scaler=False, accumulate=False):
    """Bytes that a step of CelebA's network at width 8 has at most, and those of its Jacobian.

    From PyTorch's record of every allocation, so the same each time.
    """
    torch.manual_seed(0)
    benchmark = CelebA(width=8)
    model = benchmark.model()
    groups = {"shared": list(model.shared_parameters()), "own": list(model.own_parameters())}
    options = {"tasks_per_pass": tasks_per_pass, "convention": OFFICIAL}
    options["scaler"] = torch.amp.GradScaler("cpu") if scaler else None
    method = make_method(name).init(40, template=jacobian_like(groups["shared"], 40))
    batch = torch.rand(2, 3, 64, 64), torch.rand(2, 40).round()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        losses = benchmark.losses(model(batch[0]), batch)
        if accumulate:
            accumulator = Accumulator(**groups, **options)
            accumulator.add(losses)
            accumulator.backward(method)
        else:
            backward(losses, method, **groups, **options)
    with TemporaryDirectory() as folder:
        record.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    now = most = 0
    for event in events:
        if event.get("name") == "[memory]":
            now += event["args"]["Bytes"]
            most = max(most, now)
    return most, 40 * 4 * sum(parameter.numel() for parameter in groups["shared"])


@pytest.mark.parametrize(
    "options", [{}, {"scaler": True}, {"accumulate": True}], ids=["plain", "scaler", "accumulated"]
)
def test_fairgrad_needs_at_most_its_jacobian_and_a_quarter_more_than_ls(options):
    least, jacobian = peak("ls")
    most, _ = peak("fairgrad", **options)
    assert jacobian < most - least <= 1.25 * jacobian


def test_a_pass_of_several_tasks_needs_as_many_gradients_more():
    loop, jacobian = peak("fairgrad")
    for number in (4, 8):
        more = (peak("fairgrad", number)[0] - loop) / jacobian
        assert (number - 1) / 40 < more < 4 * number / 40


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-3.0, 2.0], 3.0),
        ([-3.0, 4.0], 4.0),
        ([-torch.inf, 1.0], torch.inf),
        ([torch.nan, torch.inf], torch.nan),
    ],
)
def test_the_largest_entry_of_several_tensors(values, expected):
    found = largest([torch.zeros(0), torch.tensor(values), torch.tensor(0.5, dtype=torch.float16)])
    torch.testing.assert_close(found, torch.tensor(expected), equal_nan=True)


def load_script():
    spec = importlib.util.spec_from_file_location("benchmark_memory", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize(("jacobians", "status"), [(1.2, 0), (1.3, 1)])
def test_the_benchmark_fails_where_the_limit_is_exceeded(
    tmp_path, monkeypatch, capsys, jacobians, status
):
    script = load_script()
    peaks = {"ls": 500, "fairgrad:1": 500 + round(100 * jacobians), "graddrop": 900}
    monkeypatch.setattr(
        script,
        "measure_in_process",
        lambda case, options: {
            "peak_bytes": peaks[case],
            "jacobian_bytes": 100,
            "step_seconds": 1.0,
        },
    )
    monkeypatch.setattr(
        sys,
        "argv",
        ["benchmark_memory.py", "--others", "graddrop", "--json", str(tmp_path / "found.json")],
    )
    assert script.main() == status
    assert ("EXCEEDED" in capsys.readouterr().out) == bool(status)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["excess"] == jacobians and [
        row["jacobians_beyond_ls"] for row in found["rows"]
    ] == [
        0,
        jacobians,
        4,
    ]
