"""UPGrad, IMTL-G, Aligned-MTL and Nash-MTL: hand algebra, definitions, and TorchJD's results."""

import itertools
import math

import cvxpy
import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor
from torchjd.aggregation import IMTLG as TorchJDIMTLG  # noqa: N811
from torchjd.aggregation import AlignedMTL as TorchJDAlignedMTL
from torchjd.aggregation import UPGrad as TorchJDUPGrad
from torchjd.linalg import QuadprogProjector

from mtrl_fairgrad.weighting import FairGrad, Method
from mtrl_fairgrad.weighting.aligned_mtl import AlignedMTL
from mtrl_fairgrad.weighting.imtl_g import IMTLG
from mtrl_fairgrad.weighting.nash_mtl import NashMTL
from mtrl_fairgrad.weighting.upgrad import UPGrad
from tests.unit.weighting.samplers import STRATA, heterogeneous

ORDERLY = ["ordinary", "aligned", "conflicting"]


def sample(name: str, tasks: int, seed: int) -> Tensor:
    return STRATA[name](tasks, torch.Generator().manual_seed(seed))


def direction(method: Method, jacobian: Tensor) -> Tensor:
    return method(jacobian @ jacobian.T).weights @ jacobian


def close(a: Tensor, b: Tensor, radians: float = 1e-4) -> bool:
    a, b = a / a.norm(), b / b.norm()
    return 2 * math.atan2(float((a - b).norm()), float((a + b).norm())) < radians


# ---- UPGrad ----


def test_upgrad_of_two_tasks_by_hand() -> None:
    """Each loses its component along the other: (1, 0) and (−1, 1) become (½, ½) and (0, 1)."""
    jacobian = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        direction(UPGrad(), jacobian), torch.tensor([0.25, 0.75], dtype=torch.float64)
    )


@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", STRATA)
def test_upgrad_is_the_mean_of_projections_onto_the_dual_cone(name: str, tasks: int) -> None:
    jacobian = sample(name, tasks, 0)
    projections = []
    for gradient in jacobian:
        # Moreau: a point is its projection onto a cone plus that onto the polar one, here spanned
        # by −g_j.
        amounts, _ = nnls(-jacobian.T.numpy(), gradient.numpy(), maxiter=10000)
        projections.append(gradient + torch.from_numpy(amounts) @ jacobian)
    expected = torch.stack(projections).mean(0)
    found = direction(UPGrad(), jacobian)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=1e-6 * float(jacobian.norm(dim=1).max())
    )


@pytest.mark.parametrize("tasks", [2, 5, 10])
@pytest.mark.parametrize("name", ORDERLY)
def test_upgrad_is_torchjds(name: str, tasks: int) -> None:
    jacobian = sample(name, tasks, 1)
    theirs = (
        TorchJDUPGrad(projector=QuadprogProjector(reg_eps=1e-10)).gramian_weighting(
            jacobian @ jacobian.T
        )
        @ jacobian
    )
    assert close(direction(UPGrad(), jacobian), theirs)


# ---- IMTL-G ----


def test_imtl_g_of_two_tasks_by_hand() -> None:
    """Orthogonal gradients of lengths 1 and 2: equal projections need weights 2 : 1."""
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    found = IMTLG()(jacobian @ jacobian.T).weights
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))


@pytest.mark.parametrize("tasks", [1, 2, 3, 10])
@pytest.mark.parametrize("name", ORDERLY)
def test_imtl_g_projects_equally_on_all_gradients(name: str, tasks: int) -> None:
    jacobian = sample(name, tasks, 2)
    found = IMTLG()(jacobian @ jacobian.T).weights
    torch.testing.assert_close(found.sum().item(), 1.0)
    projections = (jacobian / jacobian.norm(dim=1, keepdim=True)) @ (found @ jacobian)
    torch.testing.assert_close(projections, projections[:1].expand(tasks), rtol=1e-6, atol=0)
    assert close(
        found @ jacobian, TorchJDIMTLG().gramian_weighting(jacobian @ jacobian.T) @ jacobian
    )


# ---- Aligned-MTL ----


def test_aligned_mtl_of_two_tasks_by_hand() -> None:
    """Orthogonal gradients of lengths 1 and 2 are both given the shorter length."""
    jacobian = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(
        direction(AlignedMTL(), jacobian), torch.tensor([0.5, 0.5], dtype=torch.float64)
    )


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
@pytest.mark.parametrize("tasks", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("name", [*ORDERLY, "low_rank", "one_zero"])
def test_aligned_mtl_is_torchjds(name: str, tasks: int, scale: str) -> None:
    jacobian = sample(name, tasks, 3)
    if not jacobian.any():
        assert not direction(AlignedMTL(scale), jacobian).any()
        return
    theirs = TorchJDAlignedMTL(scale_mode=scale).gramian_weighting(jacobian @ jacobian.T)  # pyright: ignore
    torch.testing.assert_close(
        direction(AlignedMTL(scale), jacobian), theirs @ jacobian, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("tasks", [2, 3, 10])
def test_aligned_mtl_comes_from_the_nearest_orthogonal_gradients(tasks: int) -> None:
    """Procrustes: the nearest orthonormal rows are U Vᵀ of the singular value decomposition."""
    jacobian = sample("ordinary", tasks, 4)
    u, s, vt = np.linalg.svd(jacobian.numpy(), full_matrices=False)
    expected = torch.from_numpy(s[-1] * (u @ vt).mean(0))
    torch.testing.assert_close(direction(AlignedMTL(), jacobian), expected)


# ---- Nash-MTL ----


def test_nash_mtl_is_fairgrad_at_alpha_one_and_solves_its_equation() -> None:
    for name, tasks in itertools.product(ORDERLY, (1, 2, 3, 10)):
        jacobian = sample(name, tasks, 5)
        gramian = jacobian @ jacobian.T
        found = NashMTL()(gramian)
        torch.testing.assert_close(gramian @ found.weights, 1 / found.weights)
        torch.testing.assert_close(found.weights, FairGrad(alpha=1)(gramian).weights)
        torch.testing.assert_close((found.weights @ jacobian).square().sum().item(), float(tasks))
        assert found.diagnostics["residual"] < 1e-6


def nash_mtl_as_published(gramian: Tensor) -> Tensor:
    """The authors' convex programmes, `w_i f · (Gw)_i ≥ 1` for `G = M/f` and `f = ‖M‖_F`, each
    linearised at the solution of the one before.
    """
    tasks, f = len(gramian), float(gramian.norm())
    g, before = gramian.numpy() / f, np.ones(tasks)
    for _ in range(20):
        w = cvxpy.Variable(tasks, nonneg=True)
        along = g @ w
        slope = 1 / before + (1 / (g @ before)) @ g
        objective = cvxpy.Minimize(cvxpy.sum(along) + slope @ (w - before) / f)
        limits = [-cvxpy.log(w[i] * f) - cvxpy.log(along[i]) <= 0 for i in range(tasks)]
        cvxpy.Problem(objective, limits).solve(solver=cvxpy.ECOS)
        assert w.value is not None
        moved, before = np.linalg.norm(w.value - before), w.value
        if moved < 1e-6:
            break
    return torch.from_numpy(before)


def test_the_authors_code_multiplies_the_norm_back() -> None:
    jacobian = heterogeneous(3, torch.Generator().manual_seed(0), decades=2)
    gramian = jacobian @ jacobian.T
    published = nash_mtl_as_published(gramian)
    torch.testing.assert_close(NashMTL()(gramian).weights, published, rtol=1e-3, atol=0)
    assert float((published @ jacobian).norm()) == pytest.approx(math.sqrt(3), rel=1e-3)


def test_the_frobenius_norm_lengthens_the_direction() -> None:
    jacobian = heterogeneous(4, torch.Generator().manual_seed(0))
    gramian = jacobian @ jacobian.T
    found = NashMTL(normalize="frobenius")(gramian).weights
    torch.testing.assert_close(found, FairGrad(alpha=1)(gramian / gramian.norm()).weights)
    torch.testing.assert_close((found @ jacobian).square().sum(), 4 * gramian.norm())


def test_weights_are_kept_for_as_many_calls_as_asked() -> None:
    generator = torch.Generator().manual_seed(0)
    gramians = [
        rows @ rows.mT for rows in torch.randn(7, 2, 3, 6, generator=generator, dtype=torch.float64)
    ]
    method = NashMTL(update_weights_every=3).init(3, (2,))
    found = [method(gramian).weights for gramian in gramians]
    for call, weights in enumerate(found):
        torch.testing.assert_close(weights, FairGrad(alpha=1)(gramians[call - call % 3]).weights)
    method.reset()
    assert torch.equal(method(gramians[5]).weights, NashMTL()(gramians[5]).weights)


def test_a_bad_gramian_is_not_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    good = [
        rows @ rows.mT for rows in torch.randn(3, 2, 3, 6, generator=generator, dtype=torch.float64)
    ]
    bad = good[0].clone()
    bad[1, 0, 0] = torch.nan
    method = NashMTL(update_weights_every=2).init(3, (2,))
    assert method(bad).weights.isnan().all(-1).tolist() == [False, True]
    expected = torch.stack([NashMTL()(good[0]).weights[0], NashMTL()(good[1]).weights[1]])
    torch.testing.assert_close(method(good[1]).weights, expected)


def test_keeping_weights_needs_sizes() -> None:
    with pytest.raises(ValueError, match=r"^nash_mtl .*init\(tasks=3\)"):
        NashMTL(update_weights_every=2)(torch.eye(3))
    with pytest.raises(ValueError, match="update_weights_every=0 is not allowed"):
        NashMTL(update_weights_every=0)
