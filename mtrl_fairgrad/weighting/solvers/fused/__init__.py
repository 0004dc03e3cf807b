"""The iterative solvers as fused kernels: one launch solves all problems of a CUDA tensor.

`newton` and `sgd` take the arguments of the functions of the same names in `solvers` and return the
same `Solution`, without waiting for the device. They are operations of their own,
`torch.ops.mtrl_fairgrad.newton` and `.sgd`, which `torch.compile` and fake tensors do not look
into. The kernels are written in Triton, which comes with PyTorch's CUDA builds, and which is
imported when the first of them runs. `is_usable` says for which Gramians they can be used.
"""

from mtrl_fairgrad.weighting.solvers.fused.operators import (
    MAX_TASKS,
    attempt,
    is_usable,
    newton,
    sgd,
)

__all__ = ["MAX_TASKS", "attempt", "is_usable", "newton", "sgd"]
