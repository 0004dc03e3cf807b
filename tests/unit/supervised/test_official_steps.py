"""One step of each method on the NYU-v2 network under `convention=official`, against the formulas
of the FairGrad paper's supervised code: gradients of shared parameters and of heads.

In that code every method but FairGrad, CAGrad, PCGrad and GradDrop hands a weighted loss to
autograd, so that heads are weighted, too, and clips before there is anything to clip.
"""

from functools import cache
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import logsumexp
from torch.nn import functional as F

from mtrl_fairgrad import LS, backward, jacobian_like, official_convention
from mtrl_fairgrad.gradients.official import OFFICIAL_METHODS
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from mtrl_fairgrad.supervised.compare import method_config
from mtrl_fairgrad.supervised.config import SupervisedConfig, check_parts, validate
from mtrl_fairgrad.supervised.fit_spec import FitSpec
from mtrl_fairgrad.weighting import alpha_fair, make_method
from tests.support.errors import refused

K, SEED, WARM_UP, STEPS_BEFORE = 3, 5, 60, 10
BENCHMARK = NYUv2(width=1 / 16)


def official_losses(outputs, batch):
    """Negative log-likelihood, absolute error and 1 − cosine, over the known pixels."""
    _, labels, depth, normals = batch
    known = (depth.sum(1, keepdim=True) != 0).double()
    seen = (normals.sum(1, keepdim=True) != 0).double()
    unit = outputs[2] / outputs[2].norm(dim=1, keepdim=True)
    return [
        F.nll_loss(F.log_softmax(outputs[0], 1), labels, ignore_index=-1),
        ((outputs[1] - depth).abs() * known).sum() / known.sum(),
        1 - (unit * normals * seen).sum() / seen.sum(),
    ]


@cache
def problem():
    """Network and batch in double precision, with the gradients of the official losses."""
    torch.manual_seed(0)
    model = BENCHMARK.model().double().train()
    labels = torch.randint(-1, 13, (2, 32, 32))
    depth = torch.rand(2, 1, 32, 32, dtype=torch.float64) * (torch.rand(2, 1, 32, 32) > 0.1)
    normals = F.normalize(torch.randn(2, 3, 32, 32, dtype=torch.float64), dim=1)
    normals = normals * (torch.rand(2, 1, 32, 32) > 0.1)
    batch = (torch.rand(2, 3, 32, 32, dtype=torch.float64), labels, depth, normals)
    shared, heads = list(model.shared_parameters()), list(model.own_parameters())
    adam = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(STEPS_BEFORE):  # until gradients conflict
        adam.zero_grad()
        sum(official_losses(model(batch[0]), batch)).backward()
        adam.step()
    losses = official_losses(model(batch[0]), batch)
    sizes = [parameter.numel() for parameter in shared]
    gradients = [
        torch.autograd.grad(loss, [*shared, *heads], retain_graph=True, materialize_grads=True)
        for loss in losses
    ]
    return SimpleNamespace(
        model=model,
        batch=batch,
        shared=shared,
        heads=heads,
        losses=torch.stack(losses).detach().numpy(),
        rows=np.stack([flat(each[: len(sizes)]) for each in gradients]),
        head_rows=np.stack([flat(each[len(sizes) :]) for each in gradients]),
    )


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors]).numpy()


def past_losses(count):
    return 0.5 + torch.rand(count, K, generator=torch.Generator().manual_seed(1)).double()


# ---- the official steps: p → (gradient of shared parameters, factors of the heads' gradients) ----


def weighted_loss(weights):
    return weights @ problem().rows, weights


def clipped(direction):
    return direction * min(1.0, 1.0 / (np.linalg.norm(direction) + 1e-6)), np.ones(K)


def ls(noise):
    return weighted_loss(np.ones(K))


def si(noise):
    return weighted_loss(1 / problem().losses)


def rlw(noise):
    return weighted_loss(np.exp(noise) / np.exp(noise).sum())


def stl(noise):
    return weighted_loss(np.eye(K)[1])


def dwa(noise):
    """Mean of the weighted losses; weights from two windows of 25 in a history that begins with
    ones, temperature 2.
    """
    history = np.concatenate([np.ones((50, K)), past_losses(WARM_UP), problem().losses[None]])[-50:]
    rate = np.exp(history[25:].mean(0) / history[:25].mean(0) / 2)
    return weighted_loss(K * rate / rate.sum() / K)


def uw(noise):
    """½(e^(−s) l + s), s by Adam in the optimiser of the network, at 0.025."""
    s = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([s], lr=0.025)
    for losses in past_losses(WARM_UP):
        adam.zero_grad()
        (0.5 * ((-s).exp() * losses + s)).sum().backward()
        adam.step()
    return weighted_loss(0.5 * np.exp(-s.detach().numpy()))


def famo(noise):
    w = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([w], lr=0.025, weight_decay=0.01)
    for losses, after in past_losses(2 * WARM_UP).view(WARM_UP, 2, K):
        change = (losses + 1e-8).log() - (after + 1e-8).log()
        w.grad = torch.autograd.grad(w.softmax(0), w, change)[0]
        adam.step()
    shares = w.detach().softmax(0).numpy() / (problem().losses + 1e-8)
    return weighted_loss(shares / shares.sum())


def mgda(noise):
    """The shortest convex combination, over all subsets of tasks, times K."""
    gramian = problem().rows @ problem().rows.T
    best = None
    for size in range(1, K + 1):
        for chosen in map(list, combinations(range(K), size)):
            part = np.linalg.solve(gramian[np.ix_(chosen, chosen)], np.ones(size))
            weights = np.zeros(K)
            weights[chosen] = part / part.sum()
            length = weights @ gramian @ weights
            if (weights >= 0).all() and (best is None or length < best[0]):
                best = (length, weights)
    return weighted_loss(K * best[1])


def imtl_g(noise):
    """Equal projections on the unit gradients, Σw = 1."""
    rows = problem().rows
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    equal = np.stack([*((units[0] - unit) @ rows.T for unit in units[1:]), np.ones(K)])
    return weighted_loss(np.linalg.solve(equal, [0.0] * (K - 1) + [1.0]))


def nash_mtl(noise):
    gramian = problem().rows @ problem().rows.T
    start = -0.5 * np.log(np.diag(gramian))
    found = optimize.root(lambda z: gramian @ np.exp(z) * np.exp(z) - 1, start, tol=1e-13)
    return weighted_loss(np.exp(found.x))


def fairgrad(noise):
    gramian = problem().rows @ problem().rows.T
    found = optimize.least_squares(
        lambda w: gramian @ w - (1 / w) ** (1 / 2), np.full(K, 1 / K), bounds=(0, np.inf)
    )
    return clipped(K * found.x @ problem().rows)


def cagrad(noise):
    """The dual of CAGrad at c = 0.4, K times its direction over 1 + c²."""
    rows, c = problem().rows, 0.4
    gramian = rows @ rows.T
    radius = c * np.sqrt(gramian.mean())

    def minimum(chosen):
        """Value and weights on a face of the simplex, by logits."""

        def weights(logits):
            return np.exp(logits - logsumexp(logits)) @ np.eye(K)[chosen]

        def dual(logits):
            w = weights(logits)
            return w @ gramian.mean(1) + radius * np.sqrt(w @ gramian @ w)

        found = optimize.minimize(dual, np.zeros(len(chosen)), options={"gtol": 1e-10})
        return found.fun, weights(found.x)

    faces = (list(face) for size in (1, 2, 3) for face in combinations(range(K), size))
    _, w = min(map(minimum, faces), key=lambda face: face[0])
    combined = w @ rows
    direction = rows.mean(0) + radius / np.linalg.norm(combined) * combined
    return clipped(K * direction / (1 + c**2))


def pcgrad(noise):
    """The sum of the projected gradients, `noise` the order of the projections."""
    rows = problem().rows
    total = np.zeros_like(rows[0])
    for row, order in zip(rows, noise.astype(int), strict=True):
        projected = row.copy()
        for other in rows[order]:
            if projected @ other < 0:
                projected -= projected @ other / (other @ other) * other
        total += projected
    return clipped(total)


def graddrop(noise):
    """K times the mean of the gradients with the drawn sign.

    Without the code's 1e-8 below the share, which draws vanishing coordinates by halves.
    """
    rows = problem().rows
    share = 0.5 * (1 + rows.sum(0) / np.maximum(np.abs(rows).sum(0), 1e-300))
    kept = (share > noise) * (rows > 0) + (share < noise) * (rows < 0)
    return clipped(K * (rows * kept).mean(0))


STEPS = [
    ls,
    si,
    rlw,
    stl,
    dwa,
    uw,
    famo,
    mgda,
    imtl_g,
    nash_mtl,
    fairgrad,
    cagrad,
    pcgrad,
    graddrop,
]
OPTIONS = {"fairgrad": {"solver": "least_squares"}, "stl": {"task": 1}}


# ---- our step ----


def specified(name, **options):
    """The fit that the command specifies for `method=NAME convention=official`."""
    config = SupervisedConfig(
        benchmark={"name": "nyuv2"},
        method=method_config(name, **{**OPTIONS.get(name, {}), **options}),
    )
    config.convention.name = "official"
    validate(config)
    return FitSpec.from_config(config, BENCHMARK, 0)


def warm_up(method):
    """Let methods with a history see some losses first."""
    if method.looks_after_step:
        for losses, after in past_losses(2 * WARM_UP).view(WARM_UP, 2, K):
            method(losses)
            method.after_step(after)
    elif method.name in ("dwa", "uw"):
        for losses in past_losses(WARM_UP):
            method(losses)


def our_step(spec, method=None):
    """Return the gradients of shared parameters and heads, and the noise that was drawn."""
    p = problem()
    method = (method or spec.make_method()).init(K, template=jacobian_like(p.shared, K))
    warm_up(method)
    for parameter in (*p.shared, *p.heads):
        parameter.grad = None
    backward(
        BENCHMARK.losses(p.model(p.batch[0]), p.batch),
        method,
        shared=p.shared,
        own=p.heads,
        noise=torch.Generator().manual_seed(SEED),
        convention=spec.convention,
    )
    noise = method.draw([torch.Generator().manual_seed(SEED)])
    return (
        flat([parameter.grad for parameter in p.shared]),
        flat([parameter.grad for parameter in p.heads]),
        None if noise is None else noise.numpy(),
    )


def assert_close(found, expected):
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_a_step_is_the_official_one(step):
    shared, heads, noise = our_step(specified(step.__name__))
    direction, factors = step(noise)
    assert_close(shared, direction)
    assert_close(heads, factors @ problem().head_rows)


@pytest.mark.parametrize("name", ["ls", "pcgrad"])
def test_the_reduction_makes_no_difference(name):
    sums, means = (our_step(specified(name, reduction=reduction)) for reduction in ("sum", "mean"))
    for one, other in zip(sums[:2], means[:2], strict=True):
        assert_close(other, one)


def test_alpha_fair_losses_have_the_convention_of_their_method():
    spec = specified("ls")
    shared, heads, _ = our_step(spec, alpha_fair(LS(), 0.5))
    factors = problem().losses ** -0.5
    assert_close(shared, factors @ problem().rows)
    assert_close(heads, factors @ problem().head_rows)
    assert official_convention(alpha_fair(LS(), 0.5)) == official_convention(LS())


def test_every_method_of_the_official_code_is_checked():
    assert {step.__name__ for step in STEPS} == set(OFFICIAL_METHODS)


def test_methods_that_the_code_lacks_have_the_convention_of_their_kind():
    assert official_convention(make_method("stch")) == official_convention(make_method("si"))
    for name in ("upgrad", "moco"):
        assert official_convention(make_method(name)) == official_convention(
            make_method("fairgrad")
        )


def test_its_fields_are_those_of_the_method_and_not_for_the_command_line():
    config = SupervisedConfig(method=method_config("ls"))
    config.convention.name, config.convention.scale = "official", "tasks"
    with refused("convention.name", "official"):
        check_parts(config)
