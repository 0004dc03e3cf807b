"""Adam and AdamW with seeds left out, and clipping in few launches."""

import itertools
import math

import pytest
import torch

from mtrl_fairgrad.agents.learning_rate import LinearRates
from mtrl_fairgrad.agents.networks import Parameters
from mtrl_fairgrad.agents.optimizer import Adam, OptimizedParameters, clip_by_norm, clip_joined
from mtrl_fairgrad.weighting.products import join
from scripts.benchmarking.fake_cuda import DEVICE, fake_cuda
from scripts.benchmarking.launches import traced

SEEDS = 3
SHAPES = {"weight": (4, 5), "bias": (7,), "scale": (1,)}
PATTERNS = list(itertools.product([False, True], repeat=SEEDS))


def normal(seed, lead=()):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((SEEDS, *lead, *shape), generator=generator)
        for name, shape in SHAPES.items()
    }


class Reference:
    """One optimiser of PyTorch for each seed; a skipped seed only counts the step."""

    def __init__(self, parameters, kind=torch.optim.Adam, **options):
        self.seeds = [
            {name: value[s].clone() for name, value in parameters.items()} for s in range(SEEDS)
        ]
        self.optimizers = [kind(each.values(), **options) for each in self.seeds]

    def step(self, gradients, skip):
        for s, (each, optimizer) in enumerate(zip(self.seeds, self.optimizers, strict=True)):
            for name, parameter in each.items():
                skipped = torch.zeros_like(parameter)
                parameter.grad = skipped if skip[s] else gradients[name][s].clone()
            state = optimizer.state
            before = [parameter.clone() for parameter in each.values()]
            moments = {p: {k: v.clone() for k, v in state[p].items()} for p in each.values()}
            optimizer.step()
            for parameter, old in zip(each.values(), before, strict=True):
                if skip[s]:
                    parameter.copy_(old)
                    for key in ("exp_avg", "exp_avg_sq"):
                        now = state[parameter][key]
                        now.copy_(moments[parameter].get(key, torch.zeros_like(now)))

    def values(self, key=None):
        return [
            torch.stack(
                [
                    each[name] if key is None else optimizer.state[each[name]][key]
                    for each, optimizer in zip(self.seeds, self.optimizers, strict=True)
                ]
            )
            for name in SHAPES
        ]


def gpu_step(adam, gradients, skip):
    """What `Adam.step` does on a GPU."""
    adam.count += 1
    adam.masked_step(gradients, skip)


@pytest.mark.parametrize("step", [Adam.step, gpu_step], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("kind", "weight_decay"),
    [(torch.optim.Adam, 0.0), (torch.optim.Adam, 0.1), (torch.optim.AdamW, 0.1)],
)
def test_a_masked_step_is_that_of_the_seeds_that_take_part(step, kind, weight_decay):
    """All patterns of skipped seeds one after another, the first and the last without any."""
    parameters, options = normal(0), {"betas": (0.8, 0.95), "weight_decay": weight_decay}
    reference = Reference(parameters, kind, lr=0.01, eps=1e-6, **options)
    decoupled = kind is torch.optim.AdamW
    adam = Adam(list(parameters.values()), 0.01, 1e-6, decoupled=decoupled, **options)
    for number, pattern in enumerate([*PATTERNS, PATTERNS[0]]):
        gradients, skip = normal(number + 1), torch.tensor(pattern)
        reference.step(gradients, skip)
        for gradient in gradients.values():  # what a skipped seed's gradient may be
            gradient[skip] = math.nan
        step(adam, list(gradients.values()), skip)
        for ours, theirs in zip(parameters.values(), reference.values(), strict=True):
            torch.testing.assert_close(ours, theirs)
        for ours, key in ((adam.exp_avg, "exp_avg"), (adam.exp_avg_sq, "exp_avg_sq")):
            for one, other in zip(ours, reference.values(key), strict=True):
                torch.testing.assert_close(one, other)
        assert adam.count == number + 1 == reference.values("step")[0][0]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_skipped_seeds_keep_every_bit(pattern):
    parameters, skip = normal(0), torch.tensor(pattern)
    adam = Adam(list(parameters.values()), 0.01, 1e-6)
    adam.step(list(normal(1).values()), torch.zeros(SEEDS, dtype=torch.bool))
    state = [*parameters.values(), *adam.exp_avg, *adam.exp_avg_sq]
    before = [value.clone() for value in state]
    gpu_step(adam, list(normal(2).values()), skip)
    for old, new in zip(before, state, strict=True):
        assert torch.equal(old[skip], new[skip])
        assert all(not torch.equal(o, n) for o, n in zip(old[~skip], new[~skip], strict=True))


@pytest.mark.parametrize("step", [Adam.step, gpu_step], ids=["cpu", "gpu"])
def test_adamw_with_a_falling_rate_is_that_of_pytorch_with_its_linear_schedule(step):
    """The schedule ends after 5 of 8 steps; one seed is left out of the sixth."""
    rates = LinearRates(0.2, 5, torch.device("cpu"))
    parameters, rate = normal(0), rates.rate(0.01)
    options = {"betas": (0.9, 0.95), "weight_decay": 0.3}
    reference = Reference(parameters, torch.optim.AdamW, lr=0.01, eps=1e-6, **options)
    schedules = [
        torch.optim.lr_scheduler.LinearLR(each, 1.0, 0.2, total_iters=5)
        for each in reference.optimizers
    ]
    adam = Adam(list(parameters.values()), rate, 1e-6, decoupled=True, **options)
    for number in range(8):
        gradients, skip = normal(number + 1), torch.tensor([number == 5, False, False])
        rates.advance(torch.tensor(number))
        reference.step(gradients, skip)
        step(adam, list(gradients.values()), skip)
        torch.testing.assert_close(rate.item(), schedules[0].get_last_lr()[0])
        for each in schedules:
            each.step()
        for ours, theirs in zip(parameters.values(), reference.values(), strict=True):
            torch.testing.assert_close(ours, theirs)


def optimized(seed=0):
    parameters = Parameters(normal(seed), normal(seed + 1, (2,)))
    return OptimizedParameters(parameters, learning_rate=0.01, epsilon=1e-6)


def test_a_state_before_the_first_step_restores_one_after_it():
    part, nobody = optimized(), torch.zeros(SEEDS, dtype=torch.bool)
    early = {name: value.clone() for name, value in part.state().items()}
    assert not any(name.startswith("adam.") for name in early)
    part.step(normal(5), normal(6, (2,)), nobody)
    late = {name: value.clone() for name, value in part.state().items()}
    names = {f"{group}.{name}" for group in ("shared", "own") for name in SHAPES}
    assert late.keys() == names | {
        f"adam.{entry}.{name}" for entry in ("step", "exp_avg", "exp_avg_sq") for name in names
    }
    part.load_state(early)
    assert part.state().keys() == early.keys()
    part.step(normal(5), normal(6, (2,)), nobody)
    assert all(torch.equal(value, late[name]) for name, value in part.state().items())


# ---- clipping ----


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e3])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("with_own", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_clipping_of_joined_gradients_is_that_of_single_ones(max_norm, apart, with_own, joined):
    shared, own = normal(3), normal(4, (2,)) if with_own else {}
    expected = clip_by_norm(shared, own, max_norm, apart)
    found = clip_joined(join(shared) if joined else shared, own, max_norm, apart)
    torch.testing.assert_close(found.norm, expected.norm)
    for ours, theirs in ((found.shared, expected.shared), (found.own, expected.own)):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name])


# ---- what a GPU is given ----


def test_a_step_on_a_gpu_is_few_operations_and_looks_at_nothing():
    with fake_cuda():
        lead = (2,)
        groups = [
            {n: torch.empty(SEEDS, *axes, *s, device=DEVICE) for n, s in SHAPES.items()}
            for axes in ((), lead)
        ]
        part = OptimizedParameters(Parameters(*groups), learning_rate=0.01, epsilon=1e-6)
        skip = torch.empty(SEEDS, dtype=torch.bool, device=DEVICE)
        with traced() as found:
            gradient = clip_by_norm(*groups, 1.0)
            part.step(gradient.shared, gradient.own, skip)
    assert found.operations["_fused_adam_"] == SEEDS
    assert not found.operations.keys() & {"clone", "where", "copy_"}
    assert found.operations["linalg_vector_norm"] == found.operations["cat"] == 1
    assert found.launches <= SEEDS + 10
