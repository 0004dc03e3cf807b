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


def test_the_mean_takes_the_place_of_what_is_not_finite():
    """So that one NaN, of a simulator that failed, does not spoil all that follows."""
    values = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0)).double()
    spoilt, filled = RunningMoments(2, 3), RunningMoments(2, 3)
    for part, replaced in zip(values.split([10, 20], 1), (torch.nan, torch.inf), strict=True):
        bad, good = part.clone(), part.clone()
        bad[1, 2, 0], good[1, 2, 0] = replaced, filled.mean[1, 0]
        spoilt.update(bad)
        filled.update(good)
    assert torch.equal(spoilt.mean, filled.mean) and torch.equal(spoilt.deviation, filled.deviation)
