"""Aggregations of the coordinates: one tensor in place of one per parameter gives the same."""

import copy
import pickle

import pytest
import torch

from mtrl_fairgrad.weighting import DBMTL, GradDrop, MoCo, template
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair
from mtrl_fairgrad.weighting.products import Joined, join_rows

SHAPES = {"weight": (70, 60), "bias": (3,), "scale": (), "head": (1, 50)}
TASKS = 4
METHODS = {
    "graddrop": lambda: GradDrop(0.2),
    "moco": lambda: MoCo(gamma=1e-4),
    "db_mtl": lambda: DBMTL(),
    "fair graddrop": lambda: alpha_fair(GradDrop(), 0.5),
    "fair db_mtl": lambda: alpha_fair(DBMTL(), 0.5),
}


@pytest.fixture(autouse=True)
def joined_on_the_cpu(monkeypatch):
    monkeypatch.setattr(template, "joinable", lambda tensors: bool(list(tensors)))


def course(batch, calls=6, dtype=torch.float64):
    """Yield Jacobians, losses, and noise for `METHODS`; once some gradients are infinite."""
    generator = torch.Generator().manual_seed(3)
    for call in range(calls):
        jacobian = {
            name: torch.randn((*batch, TASKS, *shape), generator=generator, dtype=dtype)
            for name, shape in SHAPES.items()
        }
        if call == 2:
            jacobian["bias"][-1, ..., 1] = torch.inf
        losses = torch.rand((*batch, TASKS), generator=generator, dtype=dtype)
        numbers = sum(torch.Size(shape).numel() for shape in SHAPES.values())
        yield jacobian, losses, torch.rand((*batch, numbers), generator=generator, dtype=dtype)


def joined(jacobian, axes):
    shapes = {name: rows.shape[axes + 1 :] for name, rows in jacobian.items()}
    rows = [rows if axes else rows.unsqueeze(0) for rows in jacobian.values()]
    whole = join_rows(rows)
    return Joined(whole if axes else whole.squeeze(0), shapes)


def call(method, jacobian, losses, noise):
    return method(jacobian, **method.accepted(losses=losses, noise=noise))


def separate(monkeypatch, name, batch, like):
    """Return a method whose state is one tensor per parameter."""
    with monkeypatch.context() as patch:
        patch.setattr(template, "joinable", lambda tensors: False)
        return METHODS[name]().init(TASKS, batch, like)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, equal_nan=True)


@pytest.mark.parametrize("batch", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_a_joined_jacobian_gives_the_same(monkeypatch, name, batch):
    methods = None
    for jacobian, losses, noise in course(batch):
        if methods is None:
            methods = [separate(monkeypatch, name, batch, jacobian)]
            methods.append(METHODS[name]().init(TASKS, batch, jacobian))
        expected = call(methods[0], jacobian, losses, noise)
        found = call(methods[1], joined(jacobian, len(batch)), losses, noise)
        assert isinstance(found.direction, Joined)
        assert_equal(found.direction, expected.direction)
        assert_equal(found.diagnostics, expected.diagnostics)
        assert_equal(methods[1].state_dict(), methods[0].state_dict())


def moved(method):
    return method._apply(torch.clone)  # what `to(device)` does


def reloaded(method):
    new = type(method)().init(TASKS, method.batch_shape, next(course(method.batch_shape))[0])
    new.load_state_dict(method.state_dict())
    return new


def assigned(method):
    copied = {name: value.clone() for name, value in method.state_dict().items()}
    method.load_state_dict(copied, assign=True)
    return method


@pytest.mark.parametrize(
    "treat",
    [copy.deepcopy, lambda method: pickle.loads(pickle.dumps(method)), moved, reloaded, assigned],
    ids=["deepcopy", "pickle", "moved", "reloaded", "assigned"],
)
def test_averages_survive_what_replaces_buffers(monkeypatch, treat):
    """Copies, moves and checkpoints of either form."""
    batch, expected = (2,), None
    for jacobian, losses, noise in course(batch):
        if expected is None:
            expected = separate(monkeypatch, "db_mtl", batch, jacobian)
            method = METHODS["db_mtl"]().init(TASKS, batch, jacobian)
        method = treat(method)
        found = call(method, joined(jacobian, 1), losses, noise).direction
        assert_equal(found, call(expected, jacobian, losses, noise).direction)
        assert_equal(method.state_dict(), expected.state_dict())
        memory = {state.untyped_storage().data_ptr() for state in method.buffers()}
        assert len(memory) == (len(SHAPES) + 1 if treat is assigned else 2)


def test_a_jacobian_in_another_order_gives_the_same():
    jacobian, losses, _ = next(course((2,)))
    methods = [DBMTL().init(TASKS, (2,), jacobian) for _ in range(2)]
    mixed = {name: jacobian[name] for name in reversed(jacobian)}
    for each in (jacobian, mixed):
        directions = [
            method(form, losses).direction
            for method, form in zip(methods, (joined(jacobian, 1), joined(each, 1)), strict=True)
        ]
        assert_equal(*directions)


def test_reset_and_another_template_start_anew():
    jacobian, losses, _ = next(course(()))
    method = DBMTL().init(TASKS, template=jacobian)
    first = method(joined(jacobian, 0), losses).direction
    method.reset()
    assert_equal(method(joined(jacobian, 0), losses).direction, first)
    few = {"weight": jacobian["weight"]}
    method.init(TASKS, template=few)
    assert list(method.state_dict()) == ["average_0", "calls"]
    assert list(method(joined(few, 0), losses).direction) == ["weight"]
