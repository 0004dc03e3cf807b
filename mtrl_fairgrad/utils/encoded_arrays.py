"""Arrays of numbers as text, for states that are saved as JSON."""

from base64 import b64decode, b64encode
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def encode_array(array: NDArray[Any]) -> str:
    """Encode the numbers of an array as base64, without loss."""
    little = array.dtype.newbyteorder("<")
    return b64encode(np.ascontiguousarray(array, little).tobytes()).decode()


def decode_numbers(text: str, dtype: DTypeLike) -> NDArray[Any]:
    """Decode `encode_array` to a flat array of this dtype.

    Raises:
        ValueError, TypeError: it does not hold whole numbers of it, or anything else.
    """
    own = np.dtype(dtype)
    return np.frombuffer(b64decode(text, validate=True), own.newbyteorder("<")).astype(own)


def decode_array(text: str, like: NDArray[Any]) -> NDArray[Any]:
    """Decode `encode_array` to an array with dtype and shape of `like`.

    Raises:
        ValueError, TypeError: it is of another size, or anything else.
    """
    return decode_numbers(text, like.dtype).reshape(like.shape)
