"""Our methods where TorchJD expects its own."""

import pytest
import torch
from torchjd.aggregation import GramianWeightedAggregator, Weighting
from torchjd.autojac import backward as torchjd_backward
from torchjd.autojac import jac_to_grad

from mtrl_fairgrad import LS, FairGrad, backward, make_method
from mtrl_fairgrad.integrations.torchjd import TorchJDWeighting
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair
from tests.support.errors import refused
from tests.unit.weighting.samplers import ordinary


def test_an_aggregator_of_torchjd_takes_our_direction() -> None:
    jacobian = ordinary(4, torch.Generator().manual_seed(0))
    weighting = TorchJDWeighting(FairGrad(alpha=2))
    assert isinstance(weighting, Weighting)
    expected = FairGrad(alpha=2)(jacobian @ jacobian.T).weights @ jacobian
    torch.testing.assert_close(GramianWeightedAggregator(weighting)(jacobian), expected)


def test_training_through_torchjd_is_training_through_backward() -> None:
    def losses(parameter: torch.Tensor) -> list[torch.Tensor]:
        return [(parameter - k).square().sum() * (k + 1) for k in (-1.0, 0.5, 2.0)]

    ours, theirs = (torch.tensor([0.3, -0.2], requires_grad=True) for _ in range(2))
    backward(losses(ours), FairGrad(alpha=2), shared=[ours])
    torchjd_backward(losses(theirs))
    jac_to_grad([theirs], GramianWeightedAggregator(TorchJDWeighting(FairGrad(alpha=2))))
    torch.testing.assert_close(theirs.grad, ours.grad)


def test_random_methods_draw_from_the_generator_given() -> None:
    jacobian = ordinary(5, torch.Generator().manual_seed(1))
    method = make_method("pcgrad").init(5)
    found = TorchJDWeighting(method, torch.Generator().manual_seed(3))(jacobian @ jacobian.T)  # pyright: ignore
    noise = method.draw([torch.Generator().manual_seed(3)])
    torch.testing.assert_close(found, method(jacobian @ jacobian.T, noise=noise).weights)


def test_what_torchjd_cannot_serve_is_refused() -> None:
    with pytest.raises(TypeError, match="LS does not weigh Gramians"):
        TorchJDWeighting(LS())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="needs the losses, which TorchJD does not pass"):
        TorchJDWeighting(alpha_fair(FairGrad(alpha=2), 0.5))  # pyright: ignore[reportArgumentType]


def test_gradients_of_half_batches_are_refused() -> None:
    with refused("gramian", "half_batches"):
        TorchJDWeighting(FairGrad(gramian="half_batches"))
