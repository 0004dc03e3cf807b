"""The learning agent: multi-task soft actor-critic, its networks, replay buffer and noise."""

from mtrl_fairgrad.agents.observation_normalizer import ObservationNormalizer
from mtrl_fairgrad.agents.policy import PolicyModule, SeedPolicies, on_rows
from mtrl_fairgrad.agents.replay_buffer import Batch, ReplayBuffer, Transition
from mtrl_fairgrad.agents.return_normalizer import ReturnNormalizer
from mtrl_fairgrad.agents.reward_normalizer import RewardNormalizer
from mtrl_fairgrad.agents.rng import Noise, SeedStreams
from mtrl_fairgrad.agents.sac import SAC
from mtrl_fairgrad.agents.single_task_sac import SingleTaskSAC
from mtrl_fairgrad.agents.update_info import UpdateInfo

Agent = SAC | SingleTaskSAC

__all__ = [
    "SAC",
    "Agent",
    "Batch",
    "Noise",
    "ObservationNormalizer",
    "PolicyModule",
    "ReplayBuffer",
    "ReturnNormalizer",
    "RewardNormalizer",
    "SeedPolicies",
    "SeedStreams",
    "SingleTaskSAC",
    "Transition",
    "UpdateInfo",
    "on_rows",
]
