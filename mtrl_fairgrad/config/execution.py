"""Values of the options that say how the learner computes."""

SWITCH = ("auto", "true", "false")
"""Values of `cuda_graph` and `compile`; `auto` is decided by the device and its software."""
PRECISIONS = ("fp32", "tf32", "bf16")
"""Precisions of the networks' matrix products."""
