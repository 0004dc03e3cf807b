"""Tests that need a GPU: `make test-gpu`. Without one they are skipped, and said to be."""

import os

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts

import pytest
import torch

REHEARSAL = "MTRL_REHEARSE_GPU_TESTS"
"""Environment variable: 1 runs on the CPU what does not need a graph, to check the tests."""


@pytest.fixture(scope="session")
def device():
    if os.environ.get(REHEARSAL) == "1":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.fixture
def card(device):
    """The device if it is a GPU, for tests of graphs, kernels and synchronisation."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device")
    return device


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
