"""Each seed has its own stream."""

import torch

from mtrl_fairgrad.agents import SeedStreams


def draws(streams):
    return streams.normal(3, 2), streams.integers(100, 4), streams.uniform(5)


def test_a_seeds_numbers_do_not_depend_on_the_other_seeds():
    for together, alone in zip(
        draws(SeedStreams((5, 6, 7))), draws(SeedStreams((6,))), strict=True
    ):
        assert torch.equal(together[1], alone[0])
        assert not torch.equal(together[0], together[1])


def test_streams_do_not_repeat_the_numbers_of_the_initialisation():
    initial = torch.rand(20, generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert not torch.allclose(SeedStreams((3,)).uniform(20)[0], initial)


def test_ranges():
    streams = SeedStreams((0,))
    uniform, integers = streams.uniform(10_000), streams.integers(3, 10_000)
    assert uniform.min() >= -1 and uniform.max() < 1 and abs(uniform.mean()) < 0.05
    assert set(integers.unique().tolist()) == {0, 1, 2}


def test_state_restores_every_stream():
    streams = SeedStreams((1, 2))
    streams.normal(7)
    state = streams.state().clone()
    expected = draws(streams)
    other = SeedStreams((8, 9))
    other.load_state(state)
    assert all(torch.equal(a, b) for a, b in zip(draws(other), expected, strict=True))
