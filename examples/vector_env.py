"""An algorithm of a stranger on the fast simulators: PPO in one file, as CleanRL writes it.

    python examples/vector_env.py                   # two minutes: the hand learns to reach
    python examples/vector_env.py MT10 1000000      # any name of make_vec, and how many steps

Nothing of this project is in the algorithm: `make_vec` gives a Gymnasium vector environment, and
`examples/sb3_sac.py` one for Stable-Baselines3. Needs `pip install "mtrl-fairgrad[rl]"`.
"""

import sys
from collections import deque

import numpy as np
import torch
from gymnasium.spaces import flatdim
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn
from torch.distributions import Normal

from mtrl_fairgrad.envs import make_vec

SEED, HORIZON, COPIES = 1, 100, 8
ROLLOUT, EPOCHS, MINIBATCHES = 100, 10, 8
GAMMA, LAMBDA, CLIP, RATE = 0.97, 0.95, 0.2, 1e-3


class Agent(nn.Module):
    """A Gaussian policy and a value function."""

    def __init__(self, observation: int, action: int) -> None:
        super().__init__()
        self.value = nn.Sequential(nn.Linear(observation, 64), nn.Tanh(), nn.Linear(64, 1))
        self.mean = nn.Sequential(nn.Linear(observation, 64), nn.Tanh(), nn.Linear(64, action))
        self.log_std = nn.Parameter(torch.full((action,), -0.5))

    def policy(self, observations: Tensor) -> Normal:
        """Return the distribution of actions."""
        return Normal(self.mean(observations), self.log_std.exp())


def advantages(rewards: Tensor, values: Tensor, following: Tensor, ended: Tensor) -> Tensor:
    """Return generalised advantages [T, N]; `following` values are those of the true next steps."""
    advantage, last = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        error = rewards[t] + GAMMA * following[t] - values[t]
        advantage[t] = last = error + GAMMA * LAMBDA * (1 - ended[t]) * last
    return advantage


def update(agent: Agent, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    """Take PPO's steps on a batch of B transitions."""
    for _ in range(EPOCHS):
        for part in torch.randperm(len(batch["actions"])).chunk(MINIBATCHES):
            actions, observations, gain, old, goal = (
                batch[name][part]
                for name in ("actions", "observations", "advantages", "log_probs", "returns")
            )
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            policy = agent.policy(observations)
            ratio = (policy.log_prob(actions).sum(-1) - old).exp()
            clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
            value = agent.value(observations).squeeze(-1)
            loss = -torch.minimum(gain * ratio, gain * clipped).mean()
            loss = loss + 0.5 * (value - goal).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()


def main(name: str = "MT1-reach", total: int = 80_000) -> list[float]:
    """Train for `total` steps of all rows together; return the mean return of each rollout."""
    torch.manual_seed(SEED)
    envs = RecordEpisodeStatistics(make_vec(name, copies=COPIES, horizon=HORIZON, workers=0))
    rows = envs.num_envs
    agent = Agent(flatdim(envs.single_observation_space), flatdim(envs.single_action_space))
    optimizer = torch.optim.Adam(agent.parameters(), lr=RATE)
    recent, success, curve = deque(maxlen=50), deque(maxlen=50), []

    seen, _ = envs.reset(seed=SEED)
    for rollout in range(max(1, total // (ROLLOUT * rows))):
        steps = []
        for _ in range(ROLLOUT):
            observations = torch.as_tensor(seen)
            with torch.no_grad():
                policy = agent.policy(observations)
                actions = policy.sample()
            seen, rewards, terminated, truncated, infos = envs.step(actions.numpy())
            following = torch.as_tensor(seen)
            if "final_info" in infos:
                following = following.clone()
                ended = infos["_final_obs"]  # at a time limit, bootstrap from the true last one
                following[ended] = torch.as_tensor(np.stack(infos["final_obs"][ended]))
                recent.extend(infos["episode"]["r"][infos["_episode"]])
                success.extend(infos["final_info"]["success_once"][ended])
            with torch.no_grad():
                value, later = (agent.value(each).squeeze(-1) for each in (observations, following))
            steps.append(
                {
                    "observations": observations,
                    "actions": actions,
                    "log_probs": policy.log_prob(actions).sum(-1),
                    "values": value,
                    "following": later * ~torch.as_tensor(terminated),
                    "rewards": torch.as_tensor(rewards, dtype=torch.float32) / 10,
                    "ended": torch.as_tensor(terminated | truncated).float(),
                }
            )
        batch = {key: torch.stack([step[key] for step in steps]) for key in steps[0]}
        gained = advantages(*(batch[key] for key in ("rewards", "values", "following", "ended")))
        batch |= {"advantages": gained, "returns": gained + batch["values"]}
        update(agent, optimizer, {key: each.flatten(0, 1) for key, each in batch.items()})
        curve.append(float(np.mean(recent)))
        if rollout % 10 == 9:
            print(
                f"{(rollout + 1) * ROLLOUT * rows:7} steps: mean return {curve[-1]:6.1f}, "
                f"success {np.mean(success):.2f}"
            )
    envs.close()
    return curve


if __name__ == "__main__":
    match sys.argv[1:]:
        case [name, steps]:
            main(name, int(steps))
        case [name]:
            main(name)
        case _:
            main()
