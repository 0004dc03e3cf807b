"""The calls of `torch.cuda`, in order, with stand-ins for it."""

import inspect
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from mtrl_fairgrad.gradients import cuda_recorder
from mtrl_fairgrad.gradients.cuda_recorder import CudaRecorder
from mtrl_fairgrad.gradients.split_capture import CaptureError, capture


class Generator:
    """A generator whose state, like that of CUDA, is left in a capture by one that fails."""

    def __init__(self, state):
        self.state = state

    def clone_state(self):
        return Generator(dict(self.state))

    def graphsafe_get_state(self):
        return Generator(self.state)

    def graphsafe_set_state(self, other):
        self.state = other.state

    def draw(self):
        assert not self.state["capturing"], "Offset increment outside graph capture"
        return self.state["number"]


def fresh(number):
    return Generator({"number": number, "capturing": False})


class Stream:
    def __init__(self, log, name="side"):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def synchronize(self):
        self.log.append("wait")


@pytest.fixture
def cuda(monkeypatch):
    """What the recorder uses of `torch`; `broken` makes the end of a capture fail."""
    log = []
    made = SimpleNamespace(log=log, broken=False, generators=[fresh(3), fresh(5)])

    class Graph:
        def capture_begin(self, pool, capture_error_mode):
            log.append(f"begin {pool} {capture_error_mode}")
            self.state = made.generators[0].state
            self.state["capturing"] = True

        def capture_end(self):
            log.append("end")
            if made.broken:
                raise RuntimeError("the capture is invalid")
            self.state["capturing"] = False

        def replay(self):
            assert not self.state["capturing"]
            log.append("replay")

    @contextmanager
    def entered(thing):
        yield

    main, pools = Stream(log, "main"), iter("abcdef")
    functions = SimpleNamespace(
        device=entered,
        stream=entered,
        synchronize=lambda: log.append("synchronize"),
        empty_cache=lambda: None,
        default_generators=made.generators,
        Stream=lambda: Stream(log),
        graph_pool_handle=lambda: next(pools),
        current_stream=lambda device=None: main,
        current_device=lambda: 0,
        CUDAGraph=Graph,
    )
    private = SimpleNamespace(
        _cuda_endAllocateToPool=lambda device, pool: log.append(f"pool {pool} ended")
    )
    monkeypatch.setattr(cuda_recorder, "_torch", SimpleNamespace(cuda=functions, _C=private))
    # Among the objects of all tests, a collection takes seconds.
    monkeypatch.setattr(cuda_recorder, "gc", SimpleNamespace(collect=lambda: 0))
    return made


def test_sections_share_a_pool_and_are_ordered_with_the_current_stream(cuda):
    recorder = CudaRecorder(torch.device("cuda"))
    with recorder.session():
        recorder.begin()
        first = recorder.end()
        recorder.begin()
        second = recorder.end()
    assert cuda.log == [
        "synchronize",
        "side waits for main",
        *["begin a thread_local", "end"] * 2,
        "main waits for side",
    ]
    cuda.log.clear()
    for step in (first, second, recorder.wait):
        step()
    assert cuda.log == ["replay", "replay", "wait"]
    assert [generator.draw() for generator in cuda.generators] == [3, 5]


@pytest.mark.parametrize("broken", [False, True])
def test_a_failure_ends_the_capture_and_gives_generators_their_states_back(cuda, broken):
    recorder = CudaRecorder(torch.device("cuda"))
    earlier = capture(lambda: None, recorder)
    cuda.log.clear()
    cuda.broken = broken

    def refuse():
        raise RuntimeError("not permitted")

    with pytest.raises(CaptureError, match=r"its beginning with RuntimeError: not permitted$"):
        capture(refuse, recorder)
    one = ["synchronize", "side waits for main"]
    ends = [["end", *([f"pool {pool} ended"] if broken else []), "synchronize"] for pool in "bc"]
    assert cuda.log == [
        *[*one, "begin b thread_local", *ends[0]],
        *[*one, "begin c thread_local", *ends[1]],
    ]
    assert [generator.draw() for generator in cuda.generators] == [3, 5]
    earlier.replay()
    cuda.broken = False
    assert capture(lambda: None, recorder).result is None, "the next capture works"


def test_an_invalid_end_is_a_failure_like_any_other(cuda):
    recorder = CudaRecorder(torch.device("cuda"))
    cuda.broken = True
    with pytest.raises(CaptureError, match="the capture is invalid"):
        capture(lambda: None, recorder)
    assert cuda.log.count("pool a ended") == 1
    assert [generator.draw() for generator in cuda.generators] == [3, 5]


def test_pytorch_has_what_the_recorder_calls():
    begin = inspect.signature(torch.cuda.CUDAGraph.capture_begin).parameters
    assert {"pool", "capture_error_mode"} <= set(begin)
    for name in ("clone_state", "graphsafe_get_state", "graphsafe_set_state"):
        assert hasattr(torch.Generator, name)
    for name in ("graph_pool_handle", "default_generators", "empty_cache", "Stream"):
        assert hasattr(torch.cuda, name)
