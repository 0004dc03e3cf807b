"""Captures that are split at calls for the CPU, with a recorder that replays on the CPU."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mtrl_fairgrad.gradients.split_capture import CaptureError, capture
from mtrl_fairgrad.weighting import host
from tests.support.recorder import StandIn


class Answer(NamedTuple):
    root: Tensor
    more: dict[str, Tensor]


@pytest.fixture(autouse=True)
def every_tensor_is_on_the_device(monkeypatch):
    monkeypatch.setattr(host, "is_elsewhere", lambda value: isinstance(value, Tensor))


def roots(values, scale, seen):
    seen.append(values.tolist())
    return Answer(values.sqrt() * scale, {"sum": values.sum(), "whole": values.round().long()})


def test_a_host_call_is_a_step_between_two_sections():
    state, log, seen = torch.tensor([1.0, 4.0]), [], []

    def update():
        answer = host.on_host(roots)(state * 4, scale=0.5, seen=seen)
        state.add_(answer.root)
        return {"answer": answer, "state": state.clone()}

    captured = capture(update, StandIn(log))
    assert log == ["begin", "end", "begin", "end"] and len(captured.steps) == 3
    assert state.tolist() == [1, 4], "nothing has run"
    assert seen == [[0, 0]], "only shapes were asked for"
    places = [leaf.data_ptr() for leaf in (captured.result["answer"].root, *[state])]
    expected = state.clone()
    for _ in range(3):
        before = expected.clone()
        expected += (before * 4).sqrt() * 0.5
        log.clear()
        captured.replay()
        assert log == ["wait"], "one wait for each call"
        assert torch.equal(state, expected) and torch.equal(captured.result["state"], expected)
        answer = captured.result["answer"]
        assert isinstance(answer, Answer) and seen[-1] == (before * 4).tolist()
        assert (
            answer.more["sum"] == (before * 4).sum() and answer.more["whole"].dtype == torch.int64
        )
        assert places == [answer.root.data_ptr(), state.data_ptr()]


def test_several_calls_run_in_order_and_may_depend_on_one_another():
    value, seen = torch.tensor([3.0]), []

    @host.on_host
    def plus_one(values):
        seen.append(values.item())
        return values + 1

    def update():
        first = plus_one(value)
        second = plus_one(first * 10)
        value.copy_(second)
        return first, second

    captured = capture(lambda: (update(), update()), StandIn())
    assert len(captured.steps) == 9
    seen.clear()
    captured.replay()
    assert seen == [3, 40, 41, 420] and value == 421
    assert [each.item() for pair in captured.result for each in pair] == [4, 41, 42, 421]
    captured.replay()
    assert seen[4:] == [421, 4220, 4221, 42220] and value == 42221


def test_a_result_that_is_an_argument_does_not_share_its_memory():
    value = torch.tensor([5.0])
    captured = capture(lambda: host.on_host(lambda values: (values, values))(value), StandIn())
    captured.replay()
    first, second = captured.result
    value.fill_(9)
    assert first == second == 5 and first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("where", ["before", "in", "after"])
def test_a_failure_anywhere_restores_and_names_the_operation(where):
    state, log = torch.tensor([1.0]), []

    def refuse(values):
        if where == "in":
            raise ValueError("no zeros.\nnever")
        return values

    def update():
        state.mul_(2)
        if where == "before":
            raise ValueError("no zeros.\nnever")
        host.on_host(refuse)(state)
        state.add_(1).cos()
        raise ValueError("no zeros.\nnever")

    with pytest.raises(CaptureError) as caught:
        capture(update, StandIn(log))
    operation = {"before": "aten::mul_", "after": "aten::cos"}.get(where, "aten::")
    assert str(caught.value).startswith(f"at {operation}")
    assert str(caught.value).endswith(" with ValueError: no zeros")
    assert state == 1 and log.count("restored") == 2
    again = capture(lambda: state.add_(1), StandIn())
    again.replay()
    assert state == 2, "the process is usable"


def test_an_error_that_does_not_return_is_told_without_an_operation():
    times = []

    def update():
        times.append(1)
        if len(times) == 1:
            raise RuntimeError

    with pytest.raises(CaptureError, match=r"^with RuntimeError$"):
        capture(update, StandIn())
