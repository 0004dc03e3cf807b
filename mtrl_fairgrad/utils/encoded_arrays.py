"""Arrays of numbers as bytes, and as the base64 text that older checkpoints hold."""

from base64 import b64decode
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def encode_array(array: NDArray[Any]) -> bytes:
    """Encode the numbers of an array as little-endian bytes, without loss."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def decode_numbers(data: bytes | str, dtype: DTypeLike) -> NDArray[Any]:
    """Decode `encode_array`, or its base64, to a flat array of this dtype.

    Raises:
        ValueError, TypeError: it does not hold whole numbers of it, or anything else.
    """
    own = np.dtype(dtype)
    raw = b64decode(data, validate=True) if isinstance(data, str) else data
    return np.frombuffer(raw, own.newbyteorder("<")).astype(own)


def decode_array(data: bytes | str, like: NDArray[Any]) -> NDArray[Any]:
    """Decode `encode_array`, or its base64, to an array with dtype and shape of `like`.

    Raises:
        ValueError, TypeError: it is of another size, or anything else.
    """
    return decode_numbers(data, like.dtype).reshape(like.shape)
