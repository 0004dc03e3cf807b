"""Settings of the C library's allocator."""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 2**30
"""Free memory that a process keeps at the top of its heap."""
LARGEST_HEAP_BLOCK = 32 * 2**20
"""Larger blocks are mapped one by one; the largest value that glibc accepts."""


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for the next blocks of the same size.

    By default glibc returns it to the system as soon as some megabytes at the top of the heap are
    free, so that every update of an agent on the CPU pages its activations in anew: up to a fifth
    of the update's time. The process's largest size stays the same.

    Returns:
        whether the C library has these settings; others are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # neither Linux nor glibc
        return False
    # The first one alone would end the automatic growth of the second.
    return bool(
        mallopt(_M_MMAP_THRESHOLD, LARGEST_HEAP_BLOCK) and mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
    )
