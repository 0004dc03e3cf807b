"""RLW: softmax of normal numbers that come from outside."""

import pytest
import torch

from mtrl_fairgrad.weighting import RLW


def test_weights_are_the_softmax_of_the_noise() -> None:
    noise = torch.tensor([0.0, 2.0, 3.0], dtype=torch.float64).log()
    noise[0] = -torch.inf
    found = RLW().init(3)(torch.tensor([torch.nan, -1.0, 5.0], dtype=torch.float64), noise=noise)
    torch.testing.assert_close(
        found.weights, torch.tensor([0.0, 0.4, 0.6], dtype=torch.float64), rtol=1e-15, atol=0
    )
    assert found.diagnostics == {}


def test_each_element_draws_normal_numbers_from_its_own_generator() -> None:
    method = RLW().init(1000, (2, 1))
    drawn = method.draw([torch.Generator().manual_seed(seed) for seed in (5, 6)])
    assert drawn.shape == (2, 1, 1000)
    for place, seed in enumerate((5, 6)):
        expected = torch.randn(
            1000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        assert torch.equal(drawn[place, 0], expected)
    assert drawn.mean().abs() < 0.1 and (drawn.std() - 1).abs() < 0.1


def test_draws_are_fresh_and_leave_the_ambient_generator_alone() -> None:
    method, generator = RLW().init(3), torch.Generator().manual_seed(0)
    ambient = torch.get_rng_state()
    first, second = method.draw([generator]), method.draw([generator])
    assert not torch.equal(
        method(torch.ones(3), noise=first).weights, method(torch.ones(3), noise=second).weights
    )
    assert torch.equal(torch.get_rng_state(), ambient)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match=r"^rlw draws .*init\(tasks=K\)"):
        RLW().draw([torch.Generator()])
    with pytest.raises(ValueError, match=r"need 2 generators, but got 1\.$"):
        RLW().init(3, (2,)).draw([torch.Generator()])
    with pytest.raises(ValueError, match=r"^rlw is random: .* pass noise=method\.draw"):
        RLW().init(3)(torch.ones(3))
    with pytest.raises(ValueError, match=r"of shape \(3,\) but got \(2,\)"):
        RLW().init(3)(torch.ones(3), noise=torch.ones(2))
