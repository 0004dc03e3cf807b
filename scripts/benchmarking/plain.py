"""SAC written with plain PyTorch modules, for comparison.

It runs over the flat batch, or with a loop over tasks as in published codes. Each update does the
same work as the agent's: targets, critic and actor gradients, weights, Adam, temperatures, Polyak
averaging. Only the computation and combination of task gradients differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl_fairgrad import FairGrad
from mtrl_fairgrad.agents import Batch, Noise, ReplayBuffer, SeedStreams

from .settings import Size

GAMMA, POLYAK, RATE, CLIP = 0.99, 0.005, 3e-4, 1.0
REPLAY = 1000
"""Capacity of the replay buffer in steps."""

Gradients = Callable[[Tensor, list[Tensor]], list[Tensor]]
"""From task losses `[K]` and parameters to one gradient a parameter."""


def mean_of_losses(losses: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Call `autograd.grad` once for the mean loss: linear scalarisation, the reference."""
    return list(torch.autograd.grad(losses.mean(), parameters))


def autograd_loop(losses: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Call `autograd.grad` for each task of one graph, as published codes do, and solve exactly."""
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return weighted(rows, parameters)


def weighted(rows: Sequence[Sequence[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    """Combine the rows, one gradient a task, by FairGrad."""
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    weights = FairGrad(alpha=2.0)(jacobian @ jacobian.mT).weights
    pieces = (weights @ jacobian).split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def torchjd_fairgrad(losses: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Use TorchJD's Jacobian engine and its FairGrad aggregator."""
    from torchjd.aggregation import FairGrad as Aggregator
    from torchjd.autojac import backward, jac_to_grad

    backward(losses, inputs=parameters)
    jac_to_grad(parameters, Aggregator(alpha=2.0))
    combined = [p.grad.clone() for p in parameters if p.grad is not None]
    for p in parameters:
        p.grad = None
    return combined


def perceptron(inputs: int, outputs: int, size: Size) -> nn.Sequential:
    """Return a perceptron with ReLU activations."""
    sizes = [inputs, *[size.width] * size.depth]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(size.width, outputs))


def adam(parameters: Iterable[Tensor], rate: float) -> torch.optim.Adam:
    """Return PyTorch's fused Adam; on a GPU a CUDA graph can hold its step."""
    parameters = list(parameters)
    on_gpu = parameters[0].is_cuda
    return torch.optim.Adam(parameters, rate, eps=1e-5, fused=True, capturable=on_gpu)


def squashed_sample(
    actor: Callable[[Tensor], Tensor], observations: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return actions of the squashed Gaussian policy and their log-densities."""
    mean, log_std = actor(observations).chunk(2, -1)
    log_std = log_std.clamp(-20, 2)
    unsquashed = mean + log_std.exp() * noise
    density = (
        -0.5 * noise.square()
        - log_std
        - 0.9189385
        - 2 * (0.6931472 - unsquashed - F.softplus(-2 * unsquashed))
    )
    return unsquashed.tanh(), density.sum(-1)


class PlainSAC:
    """The agent of one seed.

    Args:
        gradients: combines the task losses.
        size: sizes of networks and batches.
        device: where to compute.
        per_task_forward: give each task forward and backward passes of its own.
    """

    def __init__(
        self, gradients: Gradients, size: Size, device: torch.device, per_task_forward: bool = False
    ) -> None:
        self.gradients, self.size, self.per_task_forward = gradients, size, per_task_forward
        seen = size.observation + size.action
        self.actor = perceptron(size.observation, 2 * size.action, size).to(device)
        self.critics = nn.ModuleList(perceptron(seen, 1, size) for _ in range(2)).to(device)
        self.targets = nn.ModuleList(perceptron(seen, 1, size) for _ in range(2)).to(device)
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_temperature = torch.zeros(size.tasks, device=device, requires_grad=True)
        self.optimizers = [
            adam(parameters, RATE)
            for parameters in (
                self.critics.parameters(),
                self.actor.parameters(),
                [self.log_temperature],
            )
        ]

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions and their log-densities."""
        return squashed_sample(self.actor, observations, noise)

    @staticmethod
    def values(critics: nn.ModuleList, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the values of both critics, `[2, N]`."""
        inputs = torch.cat([observations, actions], -1)
        return torch.stack([critic(inputs).squeeze(-1) for critic in critics])

    def step(self, index: int, losses: Tensor | list[Tensor]) -> None:
        """Step along the combined gradient of task losses of one graph, or of one graph each."""
        parameters = [p for group in self.optimizers[index].param_groups for p in group["params"]]
        if isinstance(losses, list):
            combined = weighted(
                [torch.autograd.grad(loss, parameters) for loss in losses], parameters
            )
        else:
            combined = self.gradients(losses, parameters)
        for p, gradient in zip(parameters, combined, strict=True):
            p.grad = gradient
        nn.utils.clip_grad_norm_(parameters, CLIP)
        self.optimizers[index].step()
        self.optimizers[index].zero_grad()

    def per_task(self, loss: Callable[..., Tensor], *data: Tensor) -> Tensor | list[Tensor]:
        """Return the mean losses of all tasks, by one pass over the flat batch or one per task."""
        shape = self.size.tasks, self.size.batch
        if self.per_task_forward:
            return [loss(*(d[k] for d in data)).mean() for k in range(shape[0])]
        return loss(*(d.flatten(0, 1) for d in data)).view(shape).mean(-1)

    def update(self, batch: Batch, noise: Noise) -> None:
        """Update critics, actor, temperatures and targets."""
        obs, actions, rewards, next_obs, terminated = (field[0] for field in batch[:5])
        assert noise.actions is not None
        shape = self.size.tasks, self.size.batch
        temperature = self.log_temperature.detach().exp().unsqueeze(-1).expand(shape)
        with torch.no_grad():
            flat = next_obs.flatten(0, 1)
            next_actions, density = self.sample(flat, noise.next_actions[0].flatten(0, 1))
            value = (
                self.values(self.targets, flat, next_actions).amin(0)
                - temperature.flatten() * density
            )
            target = rewards + GAMMA * (1 - terminated) * value.view(shape)
        self.step(
            0,
            self.per_task(
                lambda o, a, t: (self.values(self.critics, o, a) - t).square().mean(0),
                obs,
                actions,
                target,
            ),
        )
        densities: list[Tensor] = []

        def actor_loss(o: Tensor, n: Tensor, t: Tensor) -> Tensor:
            sampled, density = self.sample(o, n)
            densities.append(density.detach())
            return t * density - self.values(self.critics, o, sampled).amin(0)

        for p in self.critics.parameters():
            p.requires_grad_(False)
        self.step(1, self.per_task(actor_loss, obs, noise.actions[0], temperature))
        for p in self.critics.parameters():
            p.requires_grad_(True)
        entropy = -torch.cat(densities).view(shape).mean(-1)
        self.log_temperature.grad = entropy + self.size.action
        self.optimizers[2].step()
        with torch.no_grad():
            for target_p, p in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                target_p.lerp_(p, POLYAK)


class Source:
    """A filled replay buffer that batches and noise are drawn from."""

    def __init__(self, size: Size, device: torch.device) -> None:
        self.size, self.streams = size, SeedStreams(range(size.seeds), device)
        self.replay = ReplayBuffer(
            REPLAY, size.seeds, size.tasks, size.observation, size.action, device
        )
        rows = self.streams.normal(*self.replay.rows.shape[2:], REPLAY).movedim(-1, 0)
        rows[..., size.observation : size.observation + size.action].tanh_()
        rows[..., -1] = 0  # nothing terminates
        self.replay.rows.copy_(rows)
        self.replay.added = REPLAY

    def draw(self) -> tuple[Batch, Noise]:
        """Return the batch and the noise of one update."""
        return self.read(self.numbers())

    def numbers(self) -> tuple[Tensor, Noise]:
        """Draw indices into the replay buffer and noise."""
        each = self.size.tasks, self.size.batch
        indices = self.streams.integers(self.replay.size, *each)
        return indices, Noise(*(self.streams.normal(*each, self.size.action) for _ in range(2)))

    def read(self, drawn: tuple[Tensor, Noise]) -> tuple[Batch, Noise]:
        """Read the batch of a draw."""
        return self.replay.sample(drawn[0]), drawn[1]
