import torch

from mtrl_fairgrad.agents.running_moments import RunningMoments


def test_parts_of_any_size_give_the_moments_of_the_whole():
    values = 1e3 + torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)).double()
    moments = RunningMoments(2, 3)
    assert (moments.deviation == 0).all()
    for part in values.split([1, 4, 20, 5], 1):
        moments.update(part)
    assert moments.count == 30
    torch.testing.assert_close(moments.mean, values.mean(1))
    torch.testing.assert_close(moments.deviation, values.std(1, correction=0))
