"""Missing and damaged files of NYU-v2 and Cityscapes: one sentence that names them."""

import numpy as np
import pytest

from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks.cityscapes import Cityscapes
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from tests.unit.supervised.benchmarks.scene_files import BENCHMARKS, made, splits, write


def read_all(benchmark):
    found = splits(benchmark)
    return list(found.train), list(found.test)


def refused(benchmark, *words):
    """Reading everything ends with one sentence that has these words."""
    with pytest.raises(DataError) as caught:
        read_all(benchmark)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    assert all(word in message for word in words), message


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_without_data_it_says_what_is_needed_and_where_it_is(tmp_path, benchmark):
    needed = (
        "{train,val}",
        ",".join(benchmark.folders),
        "https://github.com/lorenmt/mtan",
        benchmark.title,
    )
    refused(benchmark(), "data.root", *needed)
    refused(benchmark(tmp_path / "nowhere"), "nowhere does not exist", *needed)
    (tmp_path / "file").touch()
    refused(benchmark(tmp_path / "file"), "file is not a folder", *needed)
    (tmp_path / "empty").mkdir()
    refused(benchmark(tmp_path / "empty"), "train/image", "val/depth", *needed)
    made(tmp_path, benchmark)
    (tmp_path / "val" / "depth").rename(tmp_path / "depth")
    refused(benchmark(tmp_path), "lacks val/depth:", *needed)


def test_folders_of_different_size_are_named_with_their_counts(tmp_path):
    benchmark = made(tmp_path, NYUv2)
    (tmp_path / "train/normal/7.npy").unlink()
    refused(benchmark, "train", "8 in image", "8 in label", "8 in depth", "7 in normal")


def test_a_gap_in_the_numbers_is_named(tmp_path):
    benchmark = made(tmp_path, NYUv2)
    (tmp_path / "val/depth/1.npy").rename(tmp_path / "val/depth/4.npy")
    refused(benchmark, "val/depth", "lacks 1.npy", "0.npy to 3.npy")


def test_empty_folders_are_refused(tmp_path):
    write(tmp_path, NYUv2, counts=(2, 0))
    refused(NYUv2(tmp_path), "val", "no .npy files")


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize(
    "content", [b"", b"no numpy file", None], ids=["empty", "other", "cut off"]
)
def test_a_corrupt_file_is_named(tmp_path, index, content):
    benchmark = made(tmp_path, NYUv2)
    for folder in NYUv2.folders:
        file = tmp_path / "val" / folder / f"{index}.npy"
        whole = file.read_bytes()
        file.write_bytes(whole[:-100] if content is None else content)
        refused(benchmark, f"val/{folder}/{index}.npy")
        file.write_bytes(whole)


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["text"])])
def test_arrays_of_objects_or_text_are_refused(tmp_path, array):
    benchmark = made(tmp_path, Cityscapes)
    np.save(tmp_path / "train/depth/2.npy", array, allow_pickle=True)
    refused(benchmark, "train/depth/2.npy", "numbers")


@pytest.mark.parametrize(
    ("file", "shape", "words"),
    [
        ("image/2", (32, 64), ("(32, 64)", "(32, 64, 3)")),
        ("image/2", (64, 64, 3), ("(64, 64, 3)", "(32, 64, 3)")),
        ("label/1", (32, 64, 1), ("(32, 64, 1)", "(32, 64)")),
        ("depth/1", (32, 64), ("(32, 64)", "(32, 64, 1)")),
        ("normal/1", (3, 32, 64), ("(3, 32, 64)", "(32, 64, 3)")),
        ("image/0", (33, 64, 3), ("multiples of 32", "(33, 64)")),
        ("image/0", (), ("multiples of 32",)),
    ],
)
def test_another_shape_is_named(tmp_path, file, shape, words):
    benchmark = made(tmp_path, NYUv2)
    np.save(tmp_path / "train" / f"{file}.npy", np.zeros(shape))
    refused(benchmark, f"train/{file}.npy", *words)


@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        ("label_7/1", 7, ("-1 to 6",)),
        ("label_7/1", -2, ("-1 to 6",)),
        ("label_7/1", 0.5, ("-1 to 6",)),
        ("depth/1", np.nan, ("finite",)),
        ("image/1", np.inf, ("finite",)),
        ("image/1", 255, ("255", "[0, 1]")),
        ("image/1", -2, ("-2", "[0, 1]")),
        ("depth/1", -0.01, ("-0.01", "at least 0")),
    ],
)
def test_impossible_values_are_named(tmp_path, file, value, words):
    benchmark = made(tmp_path, Cityscapes)
    array = np.load(tmp_path / "val" / f"{file}.npy")
    array.flat[5] = value
    np.save(tmp_path / "val" / f"{file}.npy", array)
    refused(benchmark, f"val/{file}.npy", *words)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_from_0_to_255_are_refused_in_every_dtype(tmp_path, dtype):
    benchmark = made(tmp_path, NYUv2)
    file = tmp_path / "train/image/3.npy"
    np.save(file, (255 * np.load(file)).astype(dtype))
    refused(benchmark, "train/image/3.npy", "by 255")


def test_normals_from_0_to_255_are_refused(tmp_path):
    benchmark = made(tmp_path, NYUv2)
    file = tmp_path / "val/normal/1.npy"
    np.save(file, 127.5 * (np.load(file) + 1))
    refused(benchmark, "val/normal/1.npy", "unit length")


@pytest.mark.parametrize("name", ["image", "label", "depth", "normal"])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_numbers_are_refused(tmp_path, name, dtype):
    benchmark = made(tmp_path, NYUv2)
    file = tmp_path / f"train/{name}/0.npy"
    np.save(file, np.load(file).astype(dtype))
    refused(benchmark, f"train/{name}/0.npy", "complex")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.uint16])
def test_depth_may_have_any_real_dtype(tmp_path, dtype):
    benchmark = made(tmp_path, NYUv2)
    file = tmp_path / "val/depth/0.npy"
    np.save(file, np.load(file).astype(dtype))
    read_all(benchmark)
