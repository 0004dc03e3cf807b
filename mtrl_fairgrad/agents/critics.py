"""What a critic's outputs mean: a value, or the distribution of returns on fixed atoms.

Each kind of critic has its Bellman targets and its loss. The functions compute one task of one
seed, and `torch.func` lifts them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mtrl_fairgrad.config.agent import AgentConfig


@dataclass(frozen=True)
class Critic(ABC):
    """Values, targets and loss of two critics, the twins."""

    target: str
    """`"min"` or `"mean"` of the twins, see `AgentConfig.target`."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of outputs n of each critic's network."""

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Return the value of each action: `[..., n]` -> `[...]`."""

    @abstractmethod
    def errors(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of each sample and the values, both `[2, B]`.

        Args:
            outputs: `[2, B, n]`.
            targets: what `targets` returned.
        """

    @abstractmethod
    def targets(
        self, outputs: Tensor, costs: Tensor, rewards: Tensor, discounts: Tensor, at_once: bool
    ) -> Tensor:
        """Return what both critics learn: reward + discount · (return of the next state − cost).

        Args:
            outputs: of the target critics in the next states, `[2, B, n]`.
            costs: temperature · log π(a'|s'), `[B]`.
            rewards: `[B]`.
            discounts: `[B]`, 0 where the task terminated.
            at_once: see `networks.Computation`.
        """

    def value(self, outputs: Tensor) -> Tensor:
        """Return the values that the actor maximises: `[2, ..., n]` -> `[...]`."""
        return self.of_twins(self.values(outputs))

    def of_twins(self, values: Tensor) -> Tensor:
        """Combine what both critics say: `[2, ...]` -> `[...]`."""
        return values.amin(0) if self.target == "min" else values.mean(0)


@dataclass(frozen=True)
class SquaredCritic(Critic):
    """A critic of one output, the value; the loss is the squared error."""

    @property
    def outputs(self) -> int:
        """One."""
        return 1

    def values(self, outputs: Tensor) -> Tensor:
        """Return the outputs: `[..., 1]` -> `[...]`."""
        return outputs.squeeze(-1)

    def errors(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Q − target)² and Q; targets `[B]`."""
        values = self.values(outputs)
        return (values - targets).square(), values

    def targets(
        self, outputs: Tensor, costs: Tensor, rewards: Tensor, discounts: Tensor, at_once: bool
    ) -> Tensor:
        """Return the values `[B]`."""
        return rewards + discounts * (self.value(outputs) - costs)


@dataclass(frozen=True)
class CategoricalCritic(Critic):
    """A distribution of returns on fixed atoms, C51 (Bellemare et al., 2017, arXiv:1707.06887).

    The outputs are logits, the value is the expectation, and the loss is the cross-entropy with the
    projected distribution of the targets. Of the twins' distributions the targets take the mixture
    (`target="mean"`, as in BRC, Nauman et al., 2025), or that of the smaller expectation
    (`target="min"`, as in FastTD3, Seo et al., 2025), sample by sample.
    """

    atoms: int
    """n; they are evenly spaced from −v_max to v_max."""
    v_max: float

    @property
    def outputs(self) -> int:
        """One logit an atom."""
        return self.atoms

    def values(self, outputs: Tensor) -> Tensor:
        """Return the expectations: `[..., n]` -> `[...]`."""
        return self._expectations(outputs.softmax(-1))

    def errors(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return cross-entropies and expectations; targets `[B, n]`."""
        log_probabilities = F.log_softmax(outputs, -1)
        errors = -(targets * log_probabilities).sum(-1)
        return errors, self._expectations(log_probabilities.exp())

    def targets(
        self, outputs: Tensor, costs: Tensor, rewards: Tensor, discounts: Tensor, at_once: bool
    ) -> Tensor:
        """Return the projected distributions `[B, n]`; NaN where a reward or cost is not finite."""
        both = outputs.softmax(-1)
        if self.target == "mean":
            probabilities = both.mean(0)
        else:
            first, second = self._expectations(both)
            probabilities = torch.where((first <= second).unsqueeze(-1), both[0], both[1])
        return project(probabilities, rewards - discounts * costs, discounts, self.v_max, at_once)

    def _expectations(self, probabilities: Tensor) -> Tensor:
        # Not a matrix product, which might round to TF32.
        return (probabilities * atoms_of(probabilities, self.v_max)).sum(-1)


def make_critic(config: AgentConfig) -> Critic:
    """Return the kind of critic that `agent.critic` names."""
    if config.critic == "categorical":
        return CategoricalCritic(config.target, config.atoms, config.v_max)
    return SquaredCritic(config.target)


def atoms_of(like: Tensor, v_max: float) -> Tensor:
    """Return the atoms `[n]` of distributions `[..., n]`."""
    return torch.linspace(-v_max, v_max, like.shape[-1], dtype=like.dtype, device=like.device)


def project(
    probabilities: Tensor, shifts: Tensor, scales: Tensor, v_max: float, dense: bool = False
) -> Tensor:
    """Project the distributions of shift + scale · z on the atoms z (Bellemare et al., 2017).

    Returns beyond ±`v_max` count as ±`v_max`. The probability of a return between two atoms is
    shared by both so that its expectation is kept.

    Args:
        probabilities: of the atoms, `[..., n]`.
        shifts: `[...]`.
        scales: `[...]`, at least 0.
        v_max: largest atom.
        dense: sum over all pairs of atoms, which takes n times as many operations but no scattered
            additions, whose order a GPU leaves open.

    Returns:
        `[..., n]`; NaN where a shift is not finite.
    """
    last = probabilities.shape[-1] - 1
    atoms = atoms_of(probabilities, v_max)
    shifts = shifts + 0 * shifts  # makes infinity NaN, which the range would hide
    returns = shifts.unsqueeze(-1) + scales.unsqueeze(-1) * atoms
    # In units of the atoms' distance, from 0 to n − 1.
    places = ((returns + v_max) * (last / (2 * v_max))).clamp(0, last)
    if dense:
        indices = torch.arange(last + 1, dtype=places.dtype, device=places.device).unsqueeze(-1)
        shares = (1 - (places.unsqueeze(-2) - indices).abs()).clamp(min=0)
        return (shares * probabilities.unsqueeze(-2)).sum(-1)
    below = places.floor().clamp(max=last - 1)
    above = probabilities * (places - below)
    index = below.nan_to_num(0).long()
    result = torch.zeros_like(probabilities).scatter_add(-1, index, probabilities - above)
    return result.scatter_add(-1, index + 1, above)
