"""Metaworld's environments, faster and identical to the last bit.

Most of a step of the official environments is Python around the physics. Here each official class
gets a subclass: named bodies are looked up once, arithmetic on three numbers does without general
arrays, work whose result nothing reads is left out, and a reset to a goal that was played before is
copied from memory. The rewards are the official code. A test compares every task with the official
one, bit for bit; what that has shown is `VERIFIED`.
"""

from functools import cache
from importlib.metadata import version

import numpy as np

VERIFIED = frozenset({("3.1.1", "3.3.0")})
"""Versions of Metaworld and MuJoCo with which `tests/envs/test_fast.py` has passed."""


def reason_unverified() -> str | None:
    """Why the fast environments are not to be used here, as a sentence; None where they are."""
    installed = version("metaworld"), version("mujoco")
    if installed in VERIFIED and _agrees():
        return None
    pairs = " or ".join(
        f"Metaworld {metaworld} with MuJoCo {mujoco}" for metaworld, mujoco in sorted(VERIFIED)
    )
    reason = f"this is Metaworld {installed[0]} with MuJoCo {installed[1]}, and they are proven for {pairs} only"
    if installed in VERIFIED:
        reason = "rotations come out otherwise on this processor or with this SciPy than when they were proven"
    return f"simulators run Metaworld's own code instead of faster ones with the same numbers: {reason}"


@cache
def _agrees() -> bool:
    """Whether arithmetic is what it was for the proof; SciPy's compiled code is where it might not
    be.
    """
    from scipy.spatial.transform import Rotation

    from mtrl_fairgrad.envs.metaworld_fast.arithmetic import QuickRotation

    matrices = Rotation.from_quat(np.random.default_rng(0).normal(size=(100, 4))).as_matrix()
    return all(
        np.array_equal(
            QuickRotation.from_matrix(each).as_quat(), Rotation.from_matrix(each).as_quat()
        )
        for each in matrices
    )
