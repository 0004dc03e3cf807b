"""How much a fair update costs: whole SAC updates at the paper's size, several ways, timed side by side in one run.

    python scripts/benchmark_update.py [--json FILE] [--rounds N] [--device cpu]

Every row does the same work of one update: sample 10×128 transitions, targets, critic and actor gradients, weights,
Adam, temperatures, Polyak averaging. Only how the task gradients are had and combined differs:

* `ls`: plain modules over the flat batch of 1,280, one `autograd.grad` of the mean loss. The yardstick.
* `fairgrad_newton`, `fairgrad_sgd`: this project, per-task gradients in one backward pass.
* `autograd_loop`: plain modules, one graph, one `autograd.grad` call per task as published codes do, newton weights.
* `task_loop`: the same, but each task's own forward and backward pass over its 128 samples alone.
* `torchjd_fairgrad`: TorchJD's Jacobian engine and its FairGrad aggregator on the same plain modules.

Rounds interleave the rows, and a ratio is the median of the rounds' ratios, so that a noisy machine disturbs all rows
alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agents import SAC, Batch, NetworkSpec, Replay, SACSpec, Streams
from agents.sac import Noise
from mtrl_fairgrad import FairGrad, make

TASKS, BATCH, OBSERVATION, ACTION, WIDTH = 10, 128, 49, 4, 400
GAMMA, POLYAK, RATE, CLIP = 0.99, 0.005, 3e-4, 1.0

Gradients = Callable[[Tensor, list[Tensor]], list[Tensor]]
"""How task losses `[K]` become one gradient per parameter."""


def mean_of_losses(losses: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(losses.mean(), parameters))


def autograd_loop(losses: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    return weighted(rows, parameters)


def weighted(rows: Sequence[Sequence[Tensor]], parameters: list[Tensor]) -> list[Tensor]:
    jacobian = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    weights = FairGrad(alpha=2.0)(jacobian @ jacobian.mT).weights
    pieces = (weights @ jacobian).split([p.numel() for p in parameters])
    return [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]


def torchjd_fairgrad(losses: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    from torchjd.aggregation import FairGrad as Aggregator
    from torchjd.autojac import backward, jac_to_grad

    backward(losses, inputs=parameters)
    jac_to_grad(parameters, Aggregator(alpha=2.0))
    found = [p.grad.clone() for p in parameters if p.grad is not None]
    for p in parameters:
        p.grad = None
    return found


def perceptron(inputs: int, outputs: int) -> nn.Sequential:
    sizes = [inputs, WIDTH, WIDTH, WIDTH]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))


class PlainSAC:
    """SAC as one would write it with modules, over the flat batch; `gradients` combines the task losses."""

    def __init__(self, gradients: Gradients, device: torch.device, per_task_forward: bool = False) -> None:
        self.gradients, self.per_task_forward = gradients, per_task_forward
        self.actor = perceptron(OBSERVATION, 2 * ACTION).to(device)
        self.critics = nn.ModuleList(perceptron(OBSERVATION + ACTION, 1) for _ in range(2)).to(device)
        self.targets = nn.ModuleList(perceptron(OBSERVATION + ACTION, 1) for _ in range(2)).to(device)
        self.targets.load_state_dict(self.critics.state_dict())
        self.log_temperature = torch.zeros(TASKS, device=device, requires_grad=True)
        self.optimizers = [
            torch.optim.Adam(parameters, RATE, eps=1e-5, fused=True)
            for parameters in (self.critics.parameters(), self.actor.parameters(), [self.log_temperature])
        ]

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(observations).chunk(2, -1)
        log_std = log_std.clamp(-20, 2)
        unsquashed = mean + log_std.exp() * noise
        density = (
            -0.5 * noise.square() - log_std - 0.9189385 - 2 * (0.6931472 - unsquashed - F.softplus(-2 * unsquashed))
        )
        return unsquashed.tanh(), density.sum(-1)

    @staticmethod
    def values(critics: nn.ModuleList, observations: Tensor, actions: Tensor) -> Tensor:
        inputs = torch.cat([observations, actions], -1)
        return torch.stack([critic(inputs).squeeze(-1) for critic in critics])

    def step(self, index: int, losses: Tensor | list[Tensor]) -> None:
        parameters = [p for group in self.optimizers[index].param_groups for p in group["params"]]
        if isinstance(losses, list):
            found = weighted([torch.autograd.grad(loss, parameters) for loss in losses], parameters)
        else:
            found = self.gradients(losses, parameters)
        for p, gradient in zip(parameters, found, strict=True):
            p.grad = gradient
        nn.utils.clip_grad_norm_(parameters, CLIP)
        self.optimizers[index].step()
        self.optimizers[index].zero_grad()

    def per_task(self, loss: Callable[..., Tensor], *data: Tensor) -> Tensor | list[Tensor]:
        """Mean losses of all tasks: from one pass over the flat batch, or each task's from a pass of its own."""
        if self.per_task_forward:
            return [loss(*(d[k] for d in data)).mean() for k in range(TASKS)]
        return loss(*(d.flatten(0, 1) for d in data)).view(TASKS, BATCH).mean(-1)

    def update(self, batch: Batch, noise: Noise) -> None:
        obs, actions, rewards, next_obs, terminated = (field[0] for field in batch)
        temperature = self.log_temperature.detach().exp().unsqueeze(-1).expand(TASKS, BATCH)
        with torch.no_grad():
            flat = next_obs.flatten(0, 1)
            next_actions, density = self.sample(flat, noise.next_actions[0].flatten(0, 1))
            value = self.values(self.targets, flat, next_actions).amin(0) - temperature.flatten() * density
            target = rewards + GAMMA * (1 - terminated) * value.view(TASKS, BATCH)
        self.step(
            0,
            self.per_task(lambda o, a, t: (self.values(self.critics, o, a) - t).square().mean(0), obs, actions, target),
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
        entropy = -torch.cat(densities).view(TASKS, BATCH).mean(-1)
        self.log_temperature.grad = entropy + ACTION
        self.optimizers[2].step()
        with torch.no_grad():
            for target_p, p in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target_p.lerp_(p, POLYAK)


def ours(solver: str, device: torch.device) -> SAC:
    spec = SACSpec(NetworkSpec(OBSERVATION, ACTION, WIDTH))
    methods = [make("fairgrad", alpha=2.0, solver=solver) for _ in range(2)]
    return SAC(spec, [0], TASKS, methods[0], methods[1], device)


def filled_replay(device: torch.device) -> tuple[Replay, Streams]:
    replay, streams = Replay(1000, 1, TASKS, OBSERVATION, ACTION, device), Streams([0], device)
    for _ in range(replay.capacity):
        observations, next_observations = (streams.normal(TASKS, OBSERVATION) for _ in range(2))
        actions, rewards = streams.uniform(TASKS, ACTION), streams.normal(TASKS)
        replay.add(Batch(observations, actions, rewards, next_observations, torch.zeros_like(rewards)))
    return replay, streams


def draw(replay: Replay, streams: Streams) -> tuple[Batch, Noise]:
    batch = replay.sample(streams.integers(replay.size, TASKS, BATCH))
    return batch, Noise(streams.normal(TASKS, BATCH, ACTION), streams.normal(TASKS, BATCH, ACTION))


def measure(device: torch.device, rounds: int) -> list[dict[str, float | str]]:
    """Median milliseconds and ratio to LS of every row."""
    replay, streams = filled_replay(device)
    learners: dict[str, SAC | PlainSAC] = {
        "ls": PlainSAC(mean_of_losses, device),
        "fairgrad_newton": ours("newton", device),
        "fairgrad_sgd": ours("sgd", device),
        "autograd_loop": PlainSAC(autograd_loop, device),
        "task_loop": PlainSAC(mean_of_losses, device, per_task_forward=True),
        "torchjd_fairgrad": PlainSAC(torchjd_fairgrad, device),
    }
    times: dict[str, list[float]] = {name: [] for name in learners}
    for number in range(rounds + 2):
        for name, learner in learners.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            learner.update(*draw(replay, streams))
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                times[name].append(1e3 * (time.perf_counter() - started))
    return [
        {
            "name": name,
            "median_ms": round(statistics.median(row), 2),
            "ratio_to_ls": round(statistics.median(a / b for a, b in zip(row, times["ls"], strict=True)), 3),
        }
        for name, row in times.items()
    ]


def main() -> None:
    """Print the table; write it as JSON when asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--rounds", type=int, default=30, help="timed updates of each row (default 30)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    arguments = parser.parse_args()
    rows = measure(torch.device(arguments.device), arguments.rounds)
    print(f"one update, 3×{WIDTH}, {TASKS}×{BATCH} samples, {arguments.device}, {torch.get_num_threads()} threads")
    for row in rows:
        print(f"{row['name']:<18} {row['median_ms']:>9.1f} ms  {row['ratio_to_ls']:>6.2f} × ls")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
