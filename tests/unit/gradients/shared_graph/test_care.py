"""What `backward` takes care of: losses a method cannot use, tasks without weight, half precision,
slips.
"""

import json
import subprocess
import sys

import pytest
import torch

from mtrl_fairgrad import (
    FAMO,
    MGDA,
    STL,
    FairGrad,
    alpha_fair,
    backward,
    contract,
    jacobian_like,
    make_method,
)
from tests.support.paths import ROOT


def leaf(*values):
    return torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (MGDA("loss"), "task 1's loss is -2: mgda needs losses of at least 0"),
        (MGDA("loss+"), "task 1's loss is -2: mgda needs losses of at least 0"),
        (FAMO(min_loss=5.0).init(2), "task 0's loss is 1: famo needs losses of at least 5"),
        (
            FAMO(min_loss=[-3.0, -1.0]).init(2),
            "task 1's loss is -2: famo needs losses of at least -1",
        ),
        (
            alpha_fair(FairGrad(alpha=2), 0.5),
            "task 1's loss is -2: alpha_fair needs losses of at least 0",
        ),
        # 2·√9 = 6
        (
            alpha_fair(FAMO(min_loss=[6.0, -1.0]), 0.5).init(2),
            "task 0's loss is 1: alpha_fair needs losses of at least 9",
        ),
    ],
)
def test_losses_a_method_cannot_use_are_named_before_anything_changes(method, said):
    parameter = leaf(1.0, -2.0)
    with pytest.raises(ValueError, match=said):
        backward([parameter[0], parameter[1]], method, shared=[parameter])
    assert parameter.grad is None


def test_mgda_without_normalisation_takes_any_loss():
    parameter = leaf(1.0, -2.0)
    backward([parameter[0], parameter[1]], MGDA(), shared=[parameter])
    torch.testing.assert_close(parameter.grad, torch.tensor([0.5, 0.5]))


def test_famo_goes_on_after_a_step_that_mixed_precision_skipped():
    parameter, scaler = leaf(1.0, 2.0), torch.amp.GradScaler("cpu")
    optimizer, method = torch.optim.SGD([parameter], lr=0.1), FAMO().init(2)
    for factor in (torch.inf, 1.0):
        optimizer.zero_grad()
        report = backward(
            [parameter[0] ** 2 * factor, parameter[1] ** 2],
            method,
            shared=[parameter],
            scaler=scaler,
        )
        scaler.step(optimizer)
        scaler.update()
        method.after_step(parameter.detach().square())
        assert bool(report["skipped"]) == (factor == torch.inf)
    assert parameter.isfinite().all() and (parameter < torch.tensor([1.0, 2.0])).all()
    assert method.adam.steps.item() == 1


def test_a_task_without_weight_does_no_harm():
    parameter = leaf(1.0, 2.0)
    backward([parameter[0] * 3, parameter[1] + torch.inf], STL(0), shared=[parameter])
    assert parameter.grad.tolist() == [3.0, 0.0]


@pytest.mark.parametrize("name", ["moco", "db_mtl"])
def test_averages_over_batches_are_not_made_at_a_representation(name):
    parameter = leaf(1.0, 2.0)
    representation = parameter * 2
    method = make_method(name).init(2, template=jacobian_like([representation], 2))
    losses = [representation[0], representation[1]]
    for asked in (method, alpha_fair(method, 0.5)):
        with pytest.raises(ValueError, match=f"{name} averages gradients over batches"):
            backward(losses, asked, shared=[parameter], representation=representation)


def test_weights_may_exceed_half_precision():
    rows = {"weight": torch.tensor([[1e-5, 0.0], [0.0, 2e-5]], dtype=torch.float16)}
    found = contract(torch.tensor([2e5, 1e5]), rows)["weight"]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), torch.tensor([2.0, 2.0]), rtol=1e-2, atol=0)


def test_modules_and_generators_are_taken_for_what_is_meant():
    torch.manual_seed(0)
    encoder, heads = (
        torch.nn.Linear(3, 2),
        torch.nn.ModuleList(torch.nn.Linear(2, 1) for _ in range(2)),
    )
    hidden = encoder(torch.ones(4, 3))
    backward(
        (head(hidden).square().mean() for head in heads),
        FairGrad(alpha=2),
        shared=encoder,
        own=heads,
    )
    assert all(
        parameter.grad is not None
        for module in (encoder, heads)
        for parameter in module.parameters()
    )


def test_state_is_made_on_the_templates_device():
    method = make_method("moco").init(2, template={"weight": torch.empty(2, 3, device="meta")})
    assert {buffer.device.type for buffer in method.buffers()} == {"meta"}


def test_the_solver_benchmark_reports_every_method(tmp_path):
    command = [sys.executable, "scripts/benchmark_solvers.py", "--tasks", "3", "--problems", "1"]
    found = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {"method", "tasks", "median_ms", "peer_median_ms", "worst_angle_deg"} <= rows[0].keys()
    exact = [row for row in rows if "sgd" not in row["method"]]
    assert all(row["worst_angle_deg"] < 1e-3 for row in exact), exact
