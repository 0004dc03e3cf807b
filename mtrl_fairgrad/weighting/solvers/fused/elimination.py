"""Gauss–Jordan elimination of a symmetric positive definite system, as a Triton function."""

import triton
import triton.language as tl


@triton.jit
def solve(matrix, right, scratch_ptr, TASKS: tl.constexpr, BLOCK: tl.constexpr):
    """Solve `matrix · x = right` in float64, with the diagonal's elements as pivots in their order.

    The matrix stays in registers. A row or column of it, of which each thread needs other parts
    than it holds, goes through memory that the cache serves, which takes a store, a barrier and a
    load where a masked reduction of the matrix takes several exchanges between threads for each of
    its rows. Two pivots at a time halve the number of these round trips.

    Args:
        matrix: `[BLOCK, BLOCK]`; only the first tasks are looked at.
        right: `[BLOCK]`.
        scratch_ptr: float64, the program's memory of `scratch_size` numbers.
        TASKS: order of the system.
        BLOCK: a power of two, larger than TASKS if that is odd.

    Returns:
        x `[BLOCK]`, and whether the matrix is positive definite. If it is not, x is meaningless.
    """
    row = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    # With a unit diagonal, pivots are at most 1, so that `right − (1 − 1/pivot)·right`, by which a
    # pivot divides its own row like the other rows are updated, does not cancel.
    scale = 1.0 / tl.sqrt(tl.sum(tl.where(row == column, matrix, 0.0), 0))
    matrix = tl.where(row == column, 1.0, matrix * scale[:, None] * scale[None, :])
    right = (right * scale)[None, :]
    definite = tl.full((), 1, tl.int1)
    tl.debug_barrier()  # the last system's loads are done
    for k in range(0, TASKS, 2):
        # Two buffers take turns, so that one barrier a round suffices.
        buffer = scratch_ptr + (k // 2 % 2) * 3 * BLOCK
        # Contiguous along the rows, as the matrix lies in the threads.
        pivots = (column == k) | (column == k + 1)
        tl.store(buffer + 2 * row + (column - k), matrix, mask=pivots)
        tl.store(buffer + 2 * BLOCK + column, right)
        tl.debug_barrier()
        a = tl.load(buffer + 2 * k)
        b = tl.load(buffer + 2 * k + 2)
        c = tl.load(buffer + 2 * k + 3)
        first = 1.0 / a
        factor = b * first
        remainder = c - factor * b
        second = 1.0 / remainder
        definite = definite & (a > 0.0) & (remainder > 0.0)
        right_first = tl.load(buffer + 2 * BLOCK + k)
        right_second = tl.load(buffer + 2 * BLOCK + k + 1) - factor * right_first

        # Multiples of the two pivot rows that are subtracted from the rows, once by their indices
        # along the first axis, and once along the second, along which the right side lies.
        down = tl.load(buffer + 2 * row)
        down_first = (down - tl.where(row == k, 1.0, 0.0)) * first
        down = tl.load(buffer + 2 * row + 1) - down_first * b
        down_second = (down - tl.where(row == k + 1, 1.0, 0.0)) * second
        across = tl.load(buffer + 2 * column)
        next_across = tl.load(buffer + 2 * column + 1)
        across_first = (across - tl.where(column == k, 1.0, 0.0)) * first
        next_across -= across_first * b
        across_second = (next_across - tl.where(column == k + 1, 1.0, 0.0)) * second
        right = right - across_first * right_first - across_second * right_second

        # Columns of earlier pivots are not needed again.
        across = tl.where(column > k, across, 0.0)
        next_across = tl.where(column > k + 1, next_across, 0.0)
        matrix = matrix - down_first * across - down_second * next_across
    return tl.reshape(right, (BLOCK,)) * scale, definite


def scratch_size(block: int) -> int:
    """Return how many numbers a program's memory holds: two columns and a right side, twice."""
    return 6 * block
