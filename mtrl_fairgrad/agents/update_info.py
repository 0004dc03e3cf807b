"""The result of one update, as named values; the log entries are derived from it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from mtrl_fairgrad.agents.networks import Tensors


class NetworkUpdate(NamedTuple):
    """Losses, gradient norm and diagnostics of one step of the critics or of the actor."""

    losses: Tensor
    """`[S, K]`, before the step."""
    gradient_norm: Tensor
    """`[S]`, of the combined gradient before clipping, own parameters included."""
    diagnostics: Tensors
    """Diagnostics of the method: `[S]`, `[S, K]` or `[S, K, K]`."""

    @property
    def gramian(self) -> Tensor | None:
        """`[S, K, K]`; None for methods that build no Jacobian."""
        return self.diagnostics.get("gramian")

    @property
    def converged(self) -> Tensor | None:
        """`[S]` bool: whether the method solved its equation; None for methods without one."""
        return self.diagnostics.get("converged")

    def metrics(self) -> Tensors:
        """Return `loss`, `gradient_norm` and the diagnostics."""
        return {"loss": self.losses, "gradient_norm": self.gradient_norm, **self.diagnostics}


class UpdateInfo(NamedTuple):
    """The results of one update; tensors stay on the learner's device."""

    temperature: Tensor
    """`[S, K]`, the entropy coefficients that the update used."""
    critic: NetworkUpdate
    value: Tensor
    """`[S, K]`, mean Q of the batch, over both critics."""
    actor: NetworkUpdate | None
    """None in an update of the critics alone."""
    entropy: Tensor | None
    """`[S, K]`, of the policy, estimated on the batch; None in an update of the critics alone."""

    def metrics(self) -> Tensors:
        """Return the log entries: `temperature`, `critic/*`, `actor/*` and `entropy`.

        Without the last two if the actor had no part in the update.
        """
        entries = {
            "temperature": self.temperature,
            **{f"critic/{name}": value for name, value in self.critic.metrics().items()},
            "critic/value": self.value,
        }
        if self.actor is not None:
            entries |= {f"actor/{name}": value for name, value in self.actor.metrics().items()}
        return entries if self.entropy is None else {**entries, "entropy": self.entropy}
