"""Stable-Baselines3's SAC on the fast simulators.

    python examples/sb3_sac.py                 # MT1-reach, 3,000 steps
    python examples/sb3_sac.py MT10 1000000

Needs `pip install "mtrl-fairgrad[rl]" stable-baselines3`.
"""

# pyright: reportMissingImports=false
# (Stable-Baselines3 is not part of the extra `rl`.)

import sys

from stable_baselines3 import SAC

from mtrl_fairgrad.envs import make_vec
from mtrl_fairgrad.integrations.stable_baselines3 import StableBaselinesVecEnv


def main(name: str = "MT1-reach", steps: int = 3000) -> SAC:
    """Train SAC with its own defaults; return it."""
    envs = StableBaselinesVecEnv(make_vec(name, copies=2, horizon=100))
    agent = SAC("MlpPolicy", envs, seed=0, gradient_steps=1, verbose=1)
    agent.learn(steps, log_interval=10)
    envs.close()
    return agent


if __name__ == "__main__":
    match sys.argv[1:]:
        case [name, steps]:
            main(name, int(steps))
        case [name]:
            main(name)
        case _:
            main()
