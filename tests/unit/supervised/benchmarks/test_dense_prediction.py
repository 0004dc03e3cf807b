"""NYU-v2 and Cityscapes from files in their own format: reading, augmentation, training."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from mtrl_fairgrad import LS, FairGrad, backward
from mtrl_fairgrad.supervised.benchmarks import benchmark_class
from mtrl_fairgrad.supervised.benchmarks.cityscapes import Cityscapes
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from mtrl_fairgrad.supervised.benchmarks.scene_dataset import SCALES, augment
from tests.unit.supervised.benchmarks.scene_files import BENCHMARKS, made, splits

# ---- what they are ----


def test_tasks_metrics_and_schedules_are_the_papers():
    assert benchmark_class("nyuv2") is NYUv2 and benchmark_class("cityscapes") is Cityscapes
    nyuv2, cityscapes = NYUv2(), Cityscapes()
    assert (
        nyuv2.tasks == ("segmentation", "depth", "normal") and cityscapes.tasks == nyuv2.tasks[:2]
    )
    assert nyuv2.baseline == {
        "miou": 38.30,
        "pixel_accuracy": 63.76,
        "abs_error": 0.6754,
        "rel_error": 0.2780,
        "angle_mean": 25.01,
        "angle_median": 19.21,
        "within_11": 30.14,
        "within_22": 57.20,
        "within_30": 69.15,
    }
    assert cityscapes.baseline == {
        "miou": 74.01,
        "pixel_accuracy": 93.16,
        "abs_error": 0.0125,
        "rel_error": 27.77,
    }
    for benchmark, batch_size in ((nyuv2, 2), (cityscapes, 8)):
        schedule = benchmark.schedule
        assert (schedule.epochs, schedule.batch_size, schedule.learning_rate) == (
            200,
            batch_size,
            1e-4,
        )
        assert (
            schedule.halve_every == 100
            and benchmark.last_epochs == 10
            and not benchmark.select_best
        )
        lower = {metric.name for metric in benchmark.metrics if not metric.higher_is_better}
        assert lower == {"abs_error", "rel_error", "angle_mean", "angle_median"} & set(
            benchmark.baseline
        )
        assert [metric.name for metric in benchmark.metrics] == list(benchmark.baseline)
        assert {metric.task for metric in benchmark.metrics} == set(benchmark.tasks)


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_a_width_that_is_not_positive_is_refused(width):
    with pytest.raises(ValueError, match="width="):
        NYUv2(width=width)


# ---- reading ----


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_samples_are_the_files(tmp_path, benchmark):
    found = splits(made(tmp_path, benchmark))
    assert found.test is found.validation
    for part, loader in (("train", found.train), ("val", found.test)):
        for index in (0, len(loader.dataset) - 1):
            image, labels, *maps = loader.dataset[index]
            read = [
                np.load(tmp_path / part / folder / f"{index}.npy") for folder in benchmark.folders
            ]
            assert labels.dtype == torch.long and torch.equal(
                labels, torch.from_numpy(read[1]).long()
            )
            for tensor, array in zip((image, *maps), (read[0], *read[2:]), strict=True):
                assert tensor.dtype == torch.float32
                np.testing.assert_allclose(tensor.numpy(), np.moveaxis(array, -1, 0), rtol=1e-6)


def test_validation_is_complete_in_order_and_not_augmented(tmp_path):
    loader = splits(made(tmp_path, NYUv2), batch_size=3).validation
    expected = default_collate([loader.dataset[index] for index in range(4)])
    found = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def course(loader, epochs=2):
    return [part for _ in range(epochs) for batch in loader for part in batch]


def same(first: list[Tensor], second: list[Tensor]):
    return len(first) == len(second) and all(
        torch.equal(a, b) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("augmented", [True, False])
def test_what_is_trained_on_depends_on_the_seed_alone(tmp_path, augmented):
    benchmark = made(tmp_path, Cityscapes, augment=augmented)
    once = course(splits(benchmark, seed=1).train)
    torch.manual_seed(123)  # ambient randomness is not asked
    assert same(once, course(splits(benchmark, seed=1).train))
    assert not same(once, course(splits(benchmark, seed=2).train))
    assert not same(once[: len(once) // 2], once[len(once) // 2 :])


def test_augmentation_is_the_same_for_any_number_of_workers(tmp_path):
    benchmark = made(tmp_path, Cityscapes)
    assert same(course(splits(benchmark).train), course(splits(benchmark, workers=2).train))


def test_a_later_epoch_needs_no_earlier_one(tmp_path):
    """Resuming sets the loader's generator at the start of an epoch."""
    benchmark = made(tmp_path, Cityscapes)
    found = []
    for workers, earlier in ((0, 0), (0, 3), (2, 1)):
        loader = splits(benchmark, workers=workers).train
        course(loader, earlier)
        loader.generator.manual_seed(7)
        found.append(course(loader, 1))
    assert same(found[0], found[1]) and same(found[0], found[2])


def test_a_last_incomplete_batch_is_left_out_of_training_only(tmp_path):
    found = splits(made(tmp_path, Cityscapes), batch_size=3)
    assert [len(batch[0]) for batch in found.train] == [3, 3]
    assert [len(batch[0]) for batch in found.test] == [3, 1]


# ---- augmentation ----


def ramps(height=30, width=60):
    """A sample whose maps encode the position of each pixel."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack((x / width, y / height, torch.ones_like(x)))
    return (
        place.float(),
        x % 5 - 1,
        x[None] + 1.0,
        torch.stack((x / width, y / height, 1.0 + 0 * x)).float(),
    )


def augmented(count=200):
    sample = ramps()
    for seed in range(count):
        yield sample, augment(sample, torch.Generator().manual_seed(seed))


def test_augmentation_cuts_scales_and_mirrors_all_maps_alike():
    height, width = ramps()[1].shape
    seen = set()
    for _, (image, labels, depth, normal) in augmented():
        assert image.shape == normal.shape == (3, height, width) and depth.shape == (
            1,
            height,
            width,
        )
        assert labels.shape == (height, width) and labels.dtype == torch.long
        columns = image[0, 0] * width  # where each column was
        mirrored = bool(columns[0] > columns[-1])
        scale = min(
            SCALES, key=lambda scale: abs(abs(columns[-1] - columns[0]) + 1 - int(width / scale))
        )
        assert abs(columns[-1] - columns[0]).item() == pytest.approx(
            int(width / scale) - 1, abs=1e-3
        )
        rows = image[1, :, 0] * height
        assert (rows[-1] - rows[0]).item() == pytest.approx(int(height / scale) - 1, abs=1e-3)
        seen.add((scale, mirrored))
        # Normals move as the image does, and x turns round when mirrored.
        sign = torch.tensor([-1.0 if mirrored else 1.0, 1, 1]).view(3, 1, 1)
        torch.testing.assert_close(normal, image * sign)
        # Depth and labels are nearest neighbours of the same places: whole columns, at most one off
        # the bilinear.
        distance = depth[0] * scale - 1
        torch.testing.assert_close(distance, distance.round(), rtol=0, atol=1e-4)
        assert (distance - columns).abs().max() <= 1 + 1e-3
        assert torch.equal(labels, distance.round().long() % 5 - 1)
    assert seen == {(scale, mirrored) for scale in SCALES for mirrored in (False, True)}


def test_augmentation_does_not_modify_the_sample_and_can_be_the_identity():
    unchanged = 0
    for sample, result in augmented(60):
        assert same(list(sample), list(ramps()))
        unchanged += same(list(sample), list(result))
    assert 1 <= unchanged < 30  # one in six


def test_crops_reach_all_borders():
    lefts = {round((image[0].min() * 60).item()) for _, (image, *_) in augmented(1500)}
    assert lefts == set(range(21))  # 60 − 40 columns, for scale 1.5


# ---- training ----


@pytest.mark.parametrize("method", [LS(), FairGrad(alpha=2)], ids=["ls", "fairgrad"])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_two_epochs_lower_the_loss(tmp_path, benchmark, method):
    benchmark = made(tmp_path, benchmark)
    torch.manual_seed(0)
    loader, model = splits(benchmark).train, benchmark.model()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    method = method.init(len(benchmark.tasks))
    epochs = []
    for _ in range(2):
        course = []
        for batch in loader:
            losses = benchmark.losses(model(*benchmark.inputs(batch)), batch)
            optimizer.zero_grad()
            backward(losses, method, shared=model.shared_parameters(), own=model.own_parameters())
            optimizer.step()
            course.append(torch.stack(losses).mean().item())
        epochs.append(np.mean(course))
    assert epochs[1] < epochs[0] - 0.05


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_half_precision_predictions_are_measured_too(tmp_path, benchmark):
    benchmark = made(tmp_path, benchmark)
    batch = next(iter(splits(benchmark).test))
    model, meter = benchmark.model(), benchmark.meter()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*benchmark.inputs(batch))
        losses = benchmark.losses(outputs, batch)
    meter.update(outputs, batch)
    assert all(part.dtype == torch.bfloat16 for part in outputs) and all(
        loss.isfinite() for loss in losses
    )
    assert all(np.isfinite(value) for value in meter.values().values())
