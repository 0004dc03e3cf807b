"""Running normalisation of observations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mtrl_fairgrad.agents.running_moments import RunningMoments

EPSILON = 1e-2
"""Added to the standard deviation, so that what varies little is not magnified without limit."""


class ObservationNormalizer:
    """Subtract a running mean from observations and divide them by their standard deviation.

    (x − mean) / (deviation + 0.01), without a bound, as in FastTD3 (Seo et al., 2025). A seed has
    one mean and one deviation of each entry, over tasks, copies and time, so that tasks stay
    comparable; a one-hot identity is left as it is. A constant entry becomes 0.

    Args:
        seeds: S.
        observation_dim: O.
        identity: length of the one-hot identity at the end of an observation; 0 for none.
        device: where the observations are.
        dtype: floating-point type of normalised observations.
    """

    def __init__(
        self,
        seeds: int,
        observation_dim: int,
        identity: int = 0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        size = observation_dim - identity
        self._moments = RunningMoments(seeds, size, device=device)
        self.parameters = {
            "mean": torch.zeros(seeds, observation_dim, device=device, dtype=dtype),
            "scale": torch.ones(seeds, observation_dim, device=device, dtype=dtype),
        }
        """What `normalized` needs, `[S, O]`; updated in place."""

    def update(self, observations: Tensor) -> None:
        """Add observations `[S, ..., O]` to the statistics, without waiting for the device."""
        size = self._moments.mean.shape[-1]
        self._moments.update(observations[..., :size].double().flatten(1, -2))
        self._refresh()

    def _refresh(self) -> None:
        """Compute the parameters; before any observation they change nothing."""
        moments, size = self._moments, self._moments.mean.shape[-1]
        scale = torch.where(moments.count > 0, 1 / (moments.deviation + EPSILON), 1.0)
        self.parameters["mean"][:, :size] = moments.mean
        self.parameters["scale"][:, :size] = scale

    def state(self) -> dict[str, Tensor]:
        """Return the statistics."""
        return self._moments.state()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned for as many seeds and entries."""
        for name, statistic in self.state().items():
            statistic.copy_(state[name])
        self._refresh()


def normalized(observations: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Return normalised observations, or the observations themselves without parameters.

    Args:
        observations: `[S, ..., O]`, or `[..., O]` for parameters of one seed.
        parameters: `mean` and `scale`, `[S, O]` or `[O]`; or empty.
    """
    if not parameters:
        return observations
    mean, scale = parameters["mean"], parameters["scale"]
    shape = *mean.shape[:-1], *(1,) * (observations.ndim - mean.ndim), mean.shape[-1]
    return (observations - mean.view(shape)) * scale.view(shape)
