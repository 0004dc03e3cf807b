"""Products with Jacobians whose entries lie in one tensor."""

import pytest
import torch

from mtrl_fairgrad.weighting.products import (
    GRAMIAN_CHUNK,
    Joined,
    batched_self_products,
    contract,
    each_part,
    gramian,
    join_rows,
    joinable,
)

SHAPES = {"weight": (70, 60), "bias": (3,), "scale": (), "head": (1, 50)}


def jacobian_of(seeds, tasks=4, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn((seeds, tasks, *shape), generator=generator, dtype=dtype)
        for name, shape in shapes.items()
    }


def joined(jacobian):
    shapes = {name: rows.shape[2:] for name, rows in jacobian.items()}
    return Joined(join_rows(list(jacobian.values())), shapes)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("tasks", [2, 40])
def test_a_joined_jacobian_has_the_same_entries_gramian_and_direction(seeds, tasks):
    jacobian = jacobian_of(seeds, tasks)
    found = joined(jacobian)
    assert found.keys() == jacobian.keys()
    assert all(torch.equal(found[name], rows) for name, rows in jacobian.items())
    exact = gramian({name: rows.double() for name, rows in jacobian.items()}, 1)
    for products in (gramian(found, 1), batched_self_products(found.whole)):
        torch.testing.assert_close(products.double(), exact, rtol=1e-6, atol=1e-3)
    weights = torch.rand(seeds, tasks)
    expected, direction = contract(weights, jacobian), contract(weights, found)
    assert isinstance(direction, Joined) and direction.keys() == expected.keys()
    for name, part in expected.items():
        assert direction[name].shape == (seeds, *SHAPES[name])
        torch.testing.assert_close(direction[name], part)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_pieces_of_all_seeds_are_one_batch_without_a_copy(seeds):
    whole = joined(jacobian_of(seeds)).whole
    assert whole.shape[-1] % GRAMIAN_CHUNK == 0
    pieces = whole.unflatten(-1, (-1, GRAMIAN_CHUNK)).transpose(-3, -2)
    assert pieces.reshape(-1, 4, GRAMIAN_CHUNK).data_ptr() == whole.data_ptr()


@pytest.mark.parametrize("length", [1, GRAMIAN_CHUNK - 1, GRAMIAN_CHUNK, 2 * GRAMIAN_CHUNK + 5])
@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_batched_self_products_of_any_length_and_leading_axes(length, lead):
    rows = torch.randn(*lead, 4, length, dtype=torch.float64)
    torch.testing.assert_close(batched_self_products(rows), rows @ rows.mT)


def test_a_function_of_single_coordinates_is_called_once_for_a_joined_mapping():
    calls = []

    def double(part):
        calls.append(part.shape)
        return part * 2

    jacobian = jacobian_of(2)
    found = each_part(double, joined(jacobian))
    assert len(calls) == 1
    assert all(torch.equal(found[name], rows * 2) for name, rows in jacobian.items())


def test_nothing_is_joined_on_the_cpu():
    assert not joinable(jacobian_of(1).values())
    assert not joinable([])
