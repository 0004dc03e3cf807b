"""Batched backward passes of every benchmark give the same direction as a loop over tasks."""

import pytest
import torch

from mtrl_fairgrad import FairGrad, backward
from mtrl_fairgrad.supervised.benchmarks.celeba import CelebA
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from mtrl_fairgrad.supervised.benchmarks.qm9 import QM9

PRECISION = {torch.float32: 1e-5, torch.float64: 1e-10}


def celeba(random):
    images, labels = torch.rand(8, 3, 32, 32, generator=random), torch.rand(8, 40, generator=random)
    return CelebA(width=4), (images, labels.round()), (8, 40)


def digits(random):
    images, ink = torch.rand(16, 1, 8, 11, generator=random), torch.rand(16, generator=random)
    left, right = (torch.randint(10, (16,), generator=random) for _ in range(2))
    return Digits(), (images, left, right, ink), (2, 3)


def nyuv2(random):
    images, depth = (
        torch.rand(2, 3, 32, 64, generator=random),
        torch.rand(2, 1, 32, 64, generator=random),
    )
    labels = torch.randint(-1, 13, (2, 32, 64), generator=random)
    normals = torch.nn.functional.normalize(torch.rand(2, 3, 32, 64, generator=random), dim=1)
    return NYUv2(width=1 / 16), (images, labels, depth, normals), (2, 3)


def qm9(random):
    pytest.importorskip("torch_geometric")
    edges = torch.tensor(
        [[i, j] for part in (range(4), range(4, 7)) for i in part for j in part if i != j]
    ).T
    atoms, features = (
        torch.rand(7, 11, generator=random),
        torch.rand(edges.shape[1], 5, generator=random),
    )
    targets = torch.randn(2, 11, generator=random)
    return (
        QM9(),
        (atoms, edges, features, torch.tensor([0] * 4 + [1] * 3), targets, torch.ones(11)),
        (4, 11),
    )


def step(benchmark, batch, dtype, size):
    """The direction and own gradients, each as one vector, of a first step with passes of `size`
    tasks.
    """
    torch.manual_seed(0)
    model = benchmark.model().to(dtype)
    batch = [part.to(dtype) if part.is_floating_point() else part for part in batch]
    losses = benchmark.losses(model(*benchmark.inputs(batch)), batch)
    groups = [list(model.shared_parameters()), list(model.own_parameters())]
    backward(losses, FairGrad(alpha=2), shared=groups[0], own=groups[1], tasks_per_pass=size)
    return [torch.cat([parameter.grad.flatten() for parameter in group]) for group in groups]


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("made", [celeba, digits, nyuv2, qm9])
def test_batched_passes_give_the_direction_of_the_loop(made, dtype):
    benchmark, batch, sizes = made(torch.Generator().manual_seed(0))
    expected = step(benchmark, batch, dtype, 1)
    for size in sizes:
        for found, loop in zip(step(benchmark, batch, dtype, size), expected, strict=True):
            assert 0 < loop.norm() < torch.inf
            assert (found - loop).norm() <= PRECISION[dtype] * loop.norm()
