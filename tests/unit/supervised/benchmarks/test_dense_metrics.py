"""Losses and metrics of NYU-v2 and Cityscapes, by hand and by NumPy."""

import numpy as np
import pytest
import torch

from mtrl_fairgrad.supervised.benchmarks.dense_prediction import (
    DepthMeter,
    depth_loss,
    segmentation_loss,
)
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NormalMeter, NYUv2, normal_loss
from tests.support.errors import refused
from tests.unit.supervised.benchmarks.scene_files import BENCHMARKS, SIZE


def test_losses_by_hand():
    logits = torch.tensor(
        [[[[0.0, 2.0]], [[0.0, 0.0]]], [[[1.0, 5.0]], [[3.0, 5.0]]]]
    )  # [2, 2, 1, 2]
    labels = torch.tensor([[[0, 1]], [[1, -1]]])
    expected = (np.log(2) + np.log(1 + np.exp(2.0)) + np.log(1 + np.exp(-2.0))) / 3
    assert segmentation_loss(logits, labels).item() == pytest.approx(expected, rel=1e-6)

    depth = torch.tensor([[[[2.0, 0.0]]], [[[1.0, 4.0]]]])
    prediction = torch.tensor([[[[2.5, 9.0]]], [[[3.0, 4.0]]]])
    assert depth_loss(prediction, depth).item() == pytest.approx((0.5 + 2.0 + 0.0) / 3)

    normals = torch.tensor([[0.0, 0.0, 1.0], [0.6, -0.6, 0.5291503], [0.0, 0.0, 0.0]]).T.reshape(
        1, 3, 1, 3
    )
    normals[:, :, 0, 1] = (
        torch.tensor([0.8, -0.8, 0.0]) / (2 * 0.64) ** 0.5
    )  # components that sum to 0 are a normal too
    prediction = torch.tensor([[0.0, 3.0, 4.0], [-2.0, 2.0, 0.0], [1.0, 0.0, 0.0]]).T.reshape(
        1, 3, 1, 3
    )
    assert normal_loss(prediction, normals).item() == pytest.approx(((1 - 0.8) + 2.0) / 2, rel=1e-6)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_loss_of_a_batch_without_labels_is_0_with_zero_gradient(benchmark):
    outputs = tuple(
        torch.randn(2, channels, *SIZE, requires_grad=True)
        for channels in (benchmark.classes, 1, 3)[: len(benchmark().tasks)]
    )
    batch = (
        torch.rand(2, 3, *SIZE),
        torch.full((2, *SIZE), -1),
        torch.zeros(2, 1, *SIZE),
        torch.zeros(2, 3, *SIZE),
    )
    for loss, output in zip(benchmark().losses(outputs, batch), outputs, strict=True):
        (gradient,) = torch.autograd.grad(loss, output)
        assert loss.item() == 0 and not gradient.any()
    meter = benchmark().meter()
    meter.update(outputs, batch)
    assert all(np.isnan(value) for value in meter.values().values())


def test_a_prediction_of_length_0_has_a_finite_loss_and_gradient():
    prediction = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = normal_loss(prediction, torch.tensor([0.0, 0, 1]).view(1, 3, 1, 1).expand(1, 3, 2, 2))
    loss.backward()
    assert loss.item() == 1 and prediction.grad.isfinite().all()


# ---- metrics ----


def predictions(classes, images=5, seed=0):
    """Outputs and a batch that hold known and unknown pixels and a class that never occurs."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, classes, *SIZE))
    logits[:, 1] = -9
    labels = random.choice([label for label in range(-1, classes) if label != 1], (images, *SIZE))
    depth = random.uniform(0.5, 3, (images, 1, *SIZE)) * (
        random.uniform(size=(images, 1, *SIZE)) < 0.8
    )
    guess = depth + random.normal(size=depth.shape)
    normals = random.normal(size=(images, 3, *SIZE))
    normals *= (random.uniform(size=(images, 1, *SIZE)) < 0.7) / np.linalg.norm(
        normals, axis=1, keepdims=True
    )
    direction = 3 * normals + random.normal(size=normals.shape)
    return (logits, guess, direction), (labels, depth, normals)


def by_numpy(outputs, truths, classes):
    (logits, guess, direction), (labels, depth, normals) = outputs, truths
    chosen, known = logits.argmax(1), labels >= 0
    overlaps = []
    for label in range(classes):
        predicted, true = (chosen == label) & known, labels == label
        if (predicted | true).any():
            overlaps.append((predicted & true).sum() / (predicted | true).sum())
    seen = depth != 0
    error = np.abs(guess - depth)[seen]
    true = np.linalg.norm(normals, axis=1) > 0.5
    cosine = (direction * normals).sum(1) / np.linalg.norm(direction, axis=1)
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))[true]
    return {
        "miou": 100 * np.mean(overlaps),
        "pixel_accuracy": 100 * np.mean((chosen == labels)[known]),
        "abs_error": error.mean(),
        "rel_error": (error / depth[seen]).mean(),
        "angle_mean": angle.mean(),
        "angle_median": np.median(angle),
        **{
            f"within_{name}": 100 * np.mean(angle < limit)
            for name, limit in (("11", 11.25), ("22", 22.5), ("30", 30))
        },
    }


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_metrics_are_numpy_s_over_all_pixels_of_all_batches(benchmark):
    outputs, truths = predictions(benchmark.classes)
    expected = by_numpy(outputs, truths, benchmark.classes)
    meter = benchmark().meter()
    for rows in (slice(0, 3), slice(3, 5)):
        given, true = (
            tuple(torch.from_numpy(part[rows]) for part in parts) for parts in (outputs, truths)
        )
        given = tuple(part.float() for part in given)
        meter.update(given, (None, true[0], *(part.float() for part in true[1:])))
    found = meter.values()
    assert list(found) == [metric.name for metric in benchmark().metrics]
    for name, value in found.items():
        assert value == pytest.approx(
            expected[name], rel=1e-5, abs=1e-3 if name == "angle_median" else 0
        ), name
    assert 5 < expected["angle_median"] < 60


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_median_angle_of_few_pixels_is_the_middle_one_or_two(count):
    angles = np.radians([10.0, 50.0, 170.0][:count])
    prediction = torch.tensor(
        np.stack((np.sin(angles), 0 * angles, np.cos(angles))), dtype=torch.float32
    )
    normals = torch.tensor([0.0, 0, 1]).view(3, 1).expand(3, count)
    meter = NormalMeter()
    meter.update(
        (None, None, prediction.view(1, 3, 1, count)),
        (None, None, None, normals.reshape(1, 3, 1, count)),
    )
    assert meter.values()["angle_median"] == pytest.approx(np.median(np.degrees(angles)), abs=1e-3)


def test_perfect_predictions_have_perfect_metrics():
    meter = NYUv2().meter()
    _, (labels, depth, normals) = predictions(13)
    logits = np.moveaxis(np.eye(13)[labels], -1, 1)
    batch = tuple(torch.from_numpy(part).float() for part in (depth, normals))
    meter.update((torch.from_numpy(logits), *batch), (None, torch.from_numpy(labels), *batch))
    found = meter.values()
    assert (
        found.pop("angle_mean") < 0.05 and found.pop("angle_median") < 0.05
    )  # arccos near 1 in single precision
    assert found.pop("abs_error") == found.pop("rel_error") == 0
    assert set(found.values()) == {100.0}


def test_depth_errors_weigh_pixels_not_batches():
    meter = DepthMeter()
    for depth, guess in (
        ([[1.0, 1.0, 1.0]], [[2.0, 2.0, 2.0]]),
        ([[4.0, 0.0, 0.0]], [[4.0, 7.0, 7.0]]),
    ):
        meter.update((None, torch.tensor(guess)), (None, None, torch.tensor(depth)))
    assert meter.values() == {"abs_error": 0.75, "rel_error": 0.75}


def test_averaging_over_batches_weighs_batches():
    """Batches of three pixels and one: absolute errors 1, 1, 1 and 4, and a batch without depth."""
    benchmark = NYUv2(averaging="batches")
    meter = benchmark.meter()
    up = torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1)
    for depth, error, angles in (([1.0, 1, 1], 1.0, [0.0, 0, 60]), ([4.0, 0, 0], 4.0, [20.0] * 3)):
        radians = torch.deg2rad(torch.tensor(angles))
        guess = torch.stack((radians.sin(), 0 * radians, radians.cos())).view(1, 3, 1, 3)
        target = torch.tensor(depth).view(1, 1, 1, 3)
        outputs = (torch.zeros(1, 13, 1, 3), target + error, guess)
        meter.update(outputs, (None, torch.zeros(1, 1, 3).long(), target, up.expand(1, 3, 1, 3)))
    nothing = (None, torch.full((1, 1, 3), -1), torch.zeros(1, 1, 1, 3), torch.zeros(1, 3, 1, 3))
    meter.update(outputs, nothing)
    found = meter.values()
    assert found["abs_error"] == pytest.approx((1 + 4) / 2)
    assert found["rel_error"] == pytest.approx((1 + 1) / 2)
    assert found["angle_median"] == pytest.approx((0 + 20) / 2, abs=0.1)
    assert found["angle_mean"] == pytest.approx((20 + 20) / 2, abs=0.1)
    assert found["within_11"] == pytest.approx((200 / 3 + 0) / 2)
    assert found["pixel_accuracy"] == 100
    with refused("averaging", "images"):
        NYUv2(averaging="images")
