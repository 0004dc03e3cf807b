"""The attention SegNet: the paper's size, which task uses a parameter, and where attention acts."""

import pytest
import torch
from torch import nn

from mtrl_fairgrad.supervised.benchmarks.cityscapes import Cityscapes
from mtrl_fairgrad.supervised.benchmarks.nyuv2 import NYUv2
from mtrl_fairgrad.supervised.benchmarks.segnet import STRIDE, SegNet

TINY = 1 / 16
"""Filters 4, 8, 16, 32, 32."""


def numbers(parameters):
    return sum(parameter.numel() for parameter in parameters)


def images(*size):
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SegNet((13, 1, 3), TINY)


@pytest.mark.parametrize(
    ("benchmark", "shared", "channels"),
    [(NYUv2, 44_117_184, (13, 1, 3)), (Cityscapes, 41_132_608, (7, 1))],
)
def test_the_networks_have_the_paper_s_size(benchmark, shared, channels):
    with torch.device("meta"):
        model = benchmark().model()
        found = model(torch.empty(2, 3, 64, 96))
    assert numbers(model.shared_parameters()) == shared
    heads = sum(9 * 64 * 64 + 64 + 64 * number + number for number in channels)
    assert numbers(model.own_parameters()) == heads == numbers(model.parameters()) - shared
    assert [tuple(part.shape) for part in found] == [(2, number, 64, 96) for number in channels]


def test_one_task_more_costs_its_attention_and_its_head():
    with torch.device("meta"):
        two, three = SegNet((7, 1)), SegNet((7, 1, 3))
    assert numbers(three.shared_parameters()) - numbers(two.shared_parameters()) == 2_984_576


def test_convolutions_have_the_published_initialisation():
    torch.manual_seed(0)
    convolution = SegNet((7, 1)).encoder_rest[4][0][0]
    deviation = (2 / (2 * 9 * 512)) ** 0.5  # Xavier: equal numbers go in and come out
    assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert not convolution.bias.any()


def test_a_task_s_attention_and_head_reach_no_other_task(model):
    outputs = model(images(32, 64))
    for task, output in enumerate(outputs):
        gradients = torch.autograd.grad(
            output.sum(), list(model.parameters()), retain_graph=True, allow_unused=True
        )
        reached = {
            name
            for (name, _), found in zip(model.named_parameters(), gradients, strict=True)
            if found is not None
        }
        for name, _ in model.named_parameters():
            group, _, rest = name.partition(".")
            serves_one = group in ("attention", "heads")
            assert (name in reached) == (not serves_one or rest.startswith(f"{task}.")), name


def test_a_closed_mask_hides_all_shared_features(model):
    """With the last mask at 0 a task has no features, so that its prediction is its head's biases
    everywhere.
    """
    normalisation = model.attention[1].decoder[0][4]
    nn.init.zeros_(normalisation.weight)
    nn.init.constant_(normalisation.bias, -200.0)
    nn.init.constant_(model.heads[1][1].bias, 0.25)
    before, hidden, after = model(images(32, 64))
    torch.testing.assert_close(hidden, torch.full_like(hidden, 0.25))
    assert before.std() > 0 and after.std() > 0


def test_unpooling_returns_values_to_where_they_came_from(model):
    """With shared stages that change nothing, what the first decoder stage unpools is the maxima in
    their places.
    """
    late = []
    model.encoder_rest[4].register_forward_hook(lambda *given: late.append(given[2]))
    unpooled = []
    model.decoder_first[4].register_forward_hook(lambda *given: unpooled.append(given[1][0]))
    model(images(64, 64))
    (late,), (unpooled,) = late, unpooled
    filled = unpooled != 0
    assert unpooled.shape == late.shape and filled.any()
    assert torch.equal(unpooled[filled], late[filled])
    blocks = [part.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2) for part in (unpooled, late)]
    assert torch.equal(blocks[0].sum(-1), blocks[1].amax(-1))  # after ReLU nothing is negative


def test_predictions_have_the_size_of_the_image(model):
    for size in ((STRIDE, 2 * STRIDE), (96, 64)):
        assert [tuple(part.shape) for part in model(images(*size))] == [
            (2, number, *size) for number in (13, 1, 3)
        ]
