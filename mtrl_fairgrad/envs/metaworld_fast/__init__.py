"""Meta-World's environments, faster and bit-identical.

Most of a step of the official environments is Python around the physics. Each official class gets a
subclass that looks up named bodies once, computes with three numbers without general arrays, omits
work whose result is unused, and copies a reset to a known goal from memory. The rewards are the
official code. A test compares every task with the official one bit for bit, for the versions in
`VERIFIED`.
"""

from functools import cache
from importlib.metadata import version

import numpy as np

VERIFIED = frozenset({("3.1.1", "3.3.0")})
"""Versions of Meta-World and MuJoCo with which `tests/exhaustive/test_metaworld_fast.py` passed."""


def reason_unverified() -> str | None:
    """Return why the fast environments cannot be used here, as a sentence; None if they can."""
    installed = version("metaworld"), version("mujoco")
    if installed in VERIFIED and _agrees():
        return None
    pairs = " or ".join(
        f"Metaworld {metaworld} with MuJoCo {mujoco}" for metaworld, mujoco in sorted(VERIFIED)
    )
    reason = (
        f"this is Metaworld {installed[0]} with MuJoCo {installed[1]}, and they are verified for "
        f"{pairs} only"
    )
    if installed in VERIFIED:
        reason = "rotations differ on this processor or with this SciPy from the verified ones"
    return (
        "simulators run Metaworld's own code instead of the faster one with the same numbers: "
        f"{reason}"
    )


@cache
def _agrees() -> bool:
    """Return whether rotations have the verified bits; they depend on SciPy's compiled code."""
    from scipy.spatial.transform import Rotation

    from mtrl_fairgrad.envs.metaworld_fast.arithmetic import QuickRotation

    matrices = Rotation.from_quat(np.random.default_rng(0).normal(size=(100, 4))).as_matrix()
    return all(
        np.array_equal(
            QuickRotation.from_matrix(each).as_quat(), Rotation.from_matrix(each).as_quat()
        )
        for each in matrices
    )
