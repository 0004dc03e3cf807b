from base64 import b64encode

import numpy as np
import pytest

from mtrl_fairgrad.utils.encoded_arrays import decode_array, decode_numbers, encode_array


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i8", "?"])
def test_numbers_of_any_type_come_back_in_their_shape(dtype):
    array = np.array([[0, 1, -2.5], [np.pi, 1e9, 7]]).astype(dtype)
    data = encode_array(array)
    for each in (data, b64encode(data).decode()):
        found = decode_array(each, array)
        assert found.dtype == array.dtype and (found == array).all()
    assert decode_numbers(encode_array(array), dtype).shape == (6,)
    assert decode_numbers("", dtype).size == 0


@pytest.mark.parametrize("text", ["AAA", "AAAAAAA=", "not base64", b"12345", None])
def test_anything_else_is_an_error(text):
    with pytest.raises((ValueError, TypeError)):
        decode_array(text, np.zeros(2, np.float32))
