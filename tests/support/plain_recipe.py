"""An independent version of the agent's update: modules, autograd and lists, one seed, no axes.

Written from the papers' equations, for comparison with `mtrl_fairgrad.agents`, of which it uses
nothing. Everything is float64 and one task at a time.
"""

import copy
import math

import numpy as np
import torch
from scipy.optimize import root
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x):
        hidden = torch.relu(self.first_norm(self.first(x)))
        return x + self.second_norm(self.second(hidden))


class BroNet(nn.Module):
    """BroNet (Nauman et al., 2024)."""

    def __init__(self, inputs, width, blocks, outputs):
        super().__init__()
        self.entry, self.entry_norm = nn.Linear(inputs, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, outputs)

    def forward(self, x):
        hidden = torch.relu(self.entry_norm(self.entry(x)))
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)

    def layers(self):
        """Return pairs of linear layer and LayerNorm, in the order of computation."""
        pairs = [(self.entry, self.entry_norm)]
        for block in self.blocks:
            pairs += [(block.first, block.first_norm), (block.second, block.second_norm)]
        return [*pairs, (self.head, None)]


class PlainSAC:
    """Soft actor-critic with a categorical critic, K tasks, one seed.

    Args:
        actor: maps an observation to mean and log standard deviation.
        critics: two networks that map observation and action to logits of the atoms.
        temperature: initial entropy coefficient of every task.
        combine: takes the task gradients `[K, P]`, returns the direction `[P]`.
        o: the other hyper-parameters.
    """

    def __init__(self, actor, critics, tasks, temperature, combine, **o):
        self.actor, self.critics, self.combine, self.o = actor, critics, combine, o
        self.targets = [copy.deepcopy(critic) for critic in critics]
        start = torch.full((tasks,), temperature, dtype=torch.float64)
        self.log_temperature = nn.Parameter(start.log())
        self.tasks, self.updates = tasks, 0
        self.atoms = torch.linspace(-o["v_max"], o["v_max"], o["atoms"], dtype=torch.float64)
        betas, epsilon = (o["beta1"], o["beta2"]), o["adam_epsilon"]
        twins = [p for critic in critics for p in critic.parameters()]
        self.optimizers = [
            torch.optim.AdamW(
                parameters, lr=rate, betas=betas, eps=epsilon, weight_decay=decay, foreach=False
            )
            for parameters, rate, decay in (
                (twins, o["learning_rate"], o["weight_decay"]),
                (list(actor.parameters()), o["learning_rate"], o["weight_decay"]),
                ([self.log_temperature], o["temperature_learning_rate"], 0.0),
            )
        ]
        end = o["learning_rate_end"] / o["learning_rate"]
        total = o["total_updates"]
        self.factor = lambda update: 1 + (end - 1) * min(update / total, 1.0)
        self.rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]

    def sample(self, observations, noise):
        """Return actions and log-densities of a squashed Gaussian."""
        mean, raw = self.actor(observations).chunk(2, -1)
        low, high = self.o["log_std_min"], self.o["log_std_max"]
        std = (low + (high - low) * (torch.tanh(raw) + 1) / 2).exp()
        normal = torch.distributions.Normal(mean, std)
        before = mean + std * noise
        action = torch.tanh(before)
        log_density = (normal.log_prob(before) - torch.log1p(-action.square())).sum(-1)
        return action, log_density

    def value(self, critics, observations, actions):
        """Return the mean of both critics' expected returns."""
        joined = torch.cat([observations, actions], -1)
        probabilities = [critic(joined).softmax(-1) for critic in critics]
        return sum((p * self.atoms).sum(-1) for p in probabilities) / len(critics)

    def target_distribution(self, batch, noise, temperature):
        """Project the distribution of the Bellman target on the atoms, sample by sample."""
        with torch.no_grad():
            action, log_density = self.sample(batch["next_observations"], noise)
            joined = torch.cat([batch["next_observations"], action], -1)
            mixture = sum(critic(joined).softmax(-1) for critic in self.targets) / 2
            masses, costs = mixture.numpy(), (temperature * log_density).numpy()
            rewards, discounts = batch["rewards"].numpy(), batch["discounts"].numpy()
            atoms, result = self.atoms.numpy(), np.zeros(mixture.shape)
            low, high, width = atoms[0], atoms[-1], atoms[1] - atoms[0]
            for b, j in np.ndindex(*masses.shape):
                to = rewards[b] + discounts[b] * (atoms[j] - costs[b])
                place = (min(max(to, low), high) - low) / width
                lower = min(math.floor(place), len(atoms) - 2)
                result[b, lower] += masses[b, j] * (lower + 1 - place)
                result[b, lower + 1] += masses[b, j] * (place - lower)
        return torch.from_numpy(result)

    def step(self, losses, parameters, optimizer):
        """Combine the gradients of the losses, clip and make one step."""
        rows = []
        for loss in losses:
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
            rows.append(torch.cat([g.flatten() for g in gradients]))
        direction = self.combine(torch.stack(rows))
        torch.nn.utils.vector_to_parameters(direction, holders := [p.clone() for p in parameters])
        for parameter, value in zip(parameters, holders, strict=True):
            parameter.grad = value.detach().clone()
        torch.nn.utils.clip_grad_norm_(parameters, self.o["max_gradient_norm"])
        optimizer.step()

    def update(self, batches, next_noise, noise):
        """Make one update; `batches` has a mapping for each task, noise is `[K, B, A]`."""
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            # The agent keeps a rate that changes in float32, as a GPU's optimiser takes it.
            optimizer.param_groups[0]["lr"] = float(np.float32(rate * self.factor(self.updates)))
        temperature = self.log_temperature.detach().exp()
        losses = []
        for k, batch in enumerate(batches):
            target = self.target_distribution(batch, next_noise[k], temperature[k])
            joined = torch.cat([batch["observations"], batch["actions"]], -1)
            errors = [
                -(target * critic(joined).log_softmax(-1)).sum(-1).mean() for critic in self.critics
            ]
            losses.append(sum(errors) / 2)
        twins = [p for critic in self.critics for p in critic.parameters()]
        self.step(losses, twins, self.optimizers[0])
        if (self.updates + 1) % self.o["actor_every"] == 0:
            losses, entropies = [], []
            for k, batch in enumerate(batches):
                action, log_density = self.sample(batch["observations"], noise[k])
                value = self.value(self.critics, batch["observations"], action)
                losses.append((temperature[k] * log_density - value).mean())
                entropies.append(-log_density.mean().detach())
            self.step(losses, list(self.actor.parameters()), self.optimizers[1])
            surplus = torch.stack(entropies) - self.o["target_entropy"]
            self.optimizers[2].zero_grad()
            (self.log_temperature * surplus).sum().backward()
            self.optimizers[2].step()
        with torch.no_grad():
            for target, critic in zip(self.targets, self.critics, strict=True):
                for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
                    slow.copy_((1 - self.o["polyak"]) * slow + self.o["polyak"] * fast)
        self.updates += 1


def mean(rows):
    """Return the direction of linear scalarisation."""
    return rows.mean(0)


def fairgrad(alpha):
    """Return FairGrad's combination, its equation solved by SciPy in the weights' logarithms."""

    def combine(rows):
        gram = (rows @ rows.T).numpy()

        def equation(logs):
            weights = np.exp(logs)
            return np.log(np.maximum(gram @ weights, 1e-300)) + logs / alpha

        start = -np.log(np.diag(gram)) / 2
        result = root(equation, start, method="hybr", tol=1e-14)
        assert np.abs(result.fun).max() < 1e-10, result.message
        return torch.as_tensor(np.exp(result.x)) @ rows

    return combine


class PlainReplay:
    """The transitions of each simulator in a list, and each of its episodes' discounted returns."""

    def __init__(self, copies, tasks, discount, n_step):
        self.discount, self.n_step = discount, n_step
        self.lanes = {(e, k): [] for e in range(copies) for k in range(tasks)}
        self.returns = {lane: [] for lane in self.lanes}
        self.running = dict.fromkeys(self.lanes, 0.0)

    def add(self, copy_, task, transition):
        """Store a transition: observation, action, reward, next observation, terminated, ended."""
        lane = copy_, task
        self.lanes[lane].append(transition)
        self.running[lane] = transition["reward"] + self.discount * self.running[lane]
        self.returns[lane].append(self.running[lane])
        if transition["ended"]:
            self.running[lane] = 0.0

    def scale(self, task, v_max, bonus):
        """Return what a task's rewards are divided by; `bonus` is in units of divided rewards."""
        values = np.concatenate([self.returns[lane] for lane in self.lanes if lane[1] == task])
        return max(values.std(), np.abs(values).max() / (v_max - bonus))

    def n_step_transition(self, copy_, task, time):
        """Return reward sum, discount of the bootstrap and last next observation."""
        lane, total = self.lanes[copy_, task], 0.0
        for step in range(self.n_step):
            transition = lane[time + step]
            total += self.discount**step * transition["reward"]
            last = transition["ended"] or time + step + 1 == len(lane)
            if last or step == self.n_step - 1:
                power = self.discount ** (step + 1)
                alive = 0.0 if transition["terminated"] else 1.0
                return total, power * alive, transition["next_observation"]
        raise AssertionError
