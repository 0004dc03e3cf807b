"""What `backward` itself launches on a GPU, beside the backward passes, seen by fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mtrl_fairgrad import backward
from mtrl_fairgrad.gradients.shared_graph import jacobian
from mtrl_fairgrad.weighting import make_method
from scripts.benchmarking.fake_cuda import DEVICE, fake_cuda
from scripts.benchmarking.launches import Launches, traced

TASKS = 10
AT_MOST = 25
"""At five microseconds each, 0.13 ms of the host's time."""
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")


class FakeEvent:
    """Stands for a CUDA event that has not happened."""

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *_: 10**9)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *_: 10**9)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (10**11, 10**11))


def launches(
    method: str, monkeypatch: pytest.MonkeyPatch, layers: int = 2, **options: Any
) -> tuple[int, Launches]:
    """Return the number of launches outside the backward passes, and all of them."""
    made = make_method(method, **options)
    within: list[int] = []
    with fake_cuda():
        torch.set_default_device(DEVICE)
        encoder = nn.Sequential(*(nn.Linear(8, 8) for _ in range(layers)))
        heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(TASKS))
        torch.set_default_device(None)
        features = encoder(torch.empty(4, 8, device=DEVICE))
        losses = [head(features).square().mean() for head in heads]
        noise = torch.zeros(TASKS, TASKS, dtype=torch.int64, device=DEVICE)
        with traced(refuse=False) as found:
            one_pass = jacobian.one_pass

            def counted(*arguments: Any) -> Any:
                before = found.launches
                result = one_pass(*arguments)
                within.append(found.launches - before)
                return result

            with monkeypatch.context() as patched:
                patched.setattr(jacobian, "one_pass", counted)
                backward(
                    losses, made, shared=encoder.parameters(), own=heads.parameters(), noise=noise
                )
    assert len(within) == 2 and min(within) > TASKS
    return found.launches - sum(within), found


@pytest.mark.parametrize("layers", [2, 12])
def test_fairgrad_adds_few_launches_whatever_the_number_of_parameters(
    layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, found = launches("fairgrad", monkeypatch, layers)
    assert own <= AT_MOST
    assert found.operations["mtrl_fairgrad::newton"] == 1
    assert not found.host_calls and not any(name in found.operations for name in READS)


@pytest.mark.parametrize("method", ["cagrad", "mgda", "upgrad", "imtl_g", "aligned_mtl", "pcgrad"])
def test_other_methods_add_one_call_on_the_host(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, found = launches(method, monkeypatch)
    assert own <= AT_MOST
    assert found.host_calls.total() == 1 and not any(name in found.operations for name in READS)
