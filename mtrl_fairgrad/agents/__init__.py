"""mtrl-fairgrad: the learner: multi-task soft actor-critic, its networks, its replay buffer and its
random streams.
"""

from mtrl_fairgrad.agents.networks import ARCHITECTURES, NetworkSpec
from mtrl_fairgrad.agents.policy import PolicyModule
from mtrl_fairgrad.agents.replay_buffer import Batch, ReplayBuffer
from mtrl_fairgrad.agents.reward_normalizer import RewardNormalizer
from mtrl_fairgrad.agents.rng import SeedStreams
from mtrl_fairgrad.agents.sac import SAC
from mtrl_fairgrad.agents.single_task_sac import SingleTaskSAC
from mtrl_fairgrad.agents.spec import Noise, SACSpec

Agent = SAC | SingleTaskSAC

__all__ = [
    "ARCHITECTURES",
    "SAC",
    "Agent",
    "Batch",
    "NetworkSpec",
    "Noise",
    "PolicyModule",
    "ReplayBuffer",
    "RewardNormalizer",
    "SACSpec",
    "SingleTaskSAC",
    "SeedStreams",
]
