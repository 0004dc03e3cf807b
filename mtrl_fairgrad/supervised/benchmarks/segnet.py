"""SegNet with task attention (MTAN), the network of the paper's NYU-v2 and Cityscapes experiments.

A shared encoder-decoder (SegNet, Badrinarayanan et al., 2017; unpooling reuses the indices of
pooling), and for each task attention masks that select features from every stage (MTAN, Liu et al.,
2019). Layers, sizes and initialisation are those of the network called "mtan" in the code of
Nash-MTL, FAMO and the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtrl_fairgrad.supervised.benchmark import MultiTaskModel

FILTERS = (64, 128, 256, 512, 512)
"""Channels of the five stages at width 1."""
STRIDE = 2 ** len(FILTERS)
"""Height and width of images must be multiples of this, since every stage halves them."""

Stages = list[tuple[Tensor, Tensor]]
"""Early and late features of each stage, in the order of computation: the attention's inputs."""


class SegNet(MultiTaskModel):
    """The network for K tasks.

    All parameters except those of the prediction heads count as shared, as in that code: at width
    1, 44,117,184 for three tasks and 41,132,608 for two. Among them are the attention masks,
    2,984,576 parameters for each task, whose gradients from the other tasks are zero.

    Args:
        channels: number of channels of each task's prediction, K of them.
        width: factor on the numbers of filters, which are rounded; 1 in the paper.
    """

    def __init__(self, channels: Sequence[int], width: float = 1.0) -> None:
        super().__init__()
        filters = [max(1, round(width * number)) for number in FILTERS]
        below, above = [filters[0], *filters[:-1]], [*filters[1:], filters[-1]]
        depths = [1, 1, 2, 2, 2]
        self.encoder_first = _modules(
            _convolution(*pair) for pair in zip([3, *filters[:-1]], filters, strict=True)
        )
        self.encoder_rest = _modules(
            _convolutions(*pair) for pair in zip(filters, depths, strict=True)
        )
        self.decoder_first = _modules(
            _convolution(*pair) for pair in zip(filters, below, strict=True)
        )
        self.decoder_rest = _modules(
            _convolutions(*pair) for pair in zip(below, depths, strict=True)
        )
        # The layers between the stages of the attention are shared; each task applies them to its
        # own masked features.
        self.attended_down = _modules(
            _convolution(*pair) for pair in zip(filters, above, strict=True)
        )
        self.attended_up = _modules(
            _convolution(*pair) for pair in zip(filters, below, strict=True)
        )
        self.attention = _modules(_Attention(filters, below) for _ in channels)
        self.heads = _modules(_head(filters[0], number) for number in channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute K predictions `[B, channels, H, W]`, without activation.

        Args:
            images: `[B, 3, H, W]`, H and W multiples of 32.
        """
        encoder, decoder = self._shared(images)
        paths = (self.attended_down, self.attended_up)
        tasks = zip(self.attention, self.heads, strict=True)
        return tuple(head(attention(encoder, decoder, *paths)) for attention, head in tasks)

    def shared_parameters(self) -> Iterable[nn.Parameter]:
        """Return all parameters except those of the heads."""
        return (
            parameter
            for name, parameter in self.named_parameters()
            if not name.startswith("heads.")
        )

    def _shared(self, features: Tensor) -> tuple[Stages, Stages]:
        encoder: Stages = []
        decoder: Stages = []
        places: list[Tensor] = []
        for first, rest in zip(self.encoder_first, self.encoder_rest, strict=True):
            early = first(features)
            late = rest(early)
            encoder.append((early, late))
            features, place = F.max_pool2d_with_indices(late, (2, 2))
            places.append(place)
        for stage in reversed(range(len(FILTERS))):
            unpooled = F.max_unpool2d(features, places[stage], (2, 2))
            features = self.decoder_rest[stage](self.decoder_first[stage](unpooled))
            decoder.append((unpooled, features))
        return encoder, decoder


class _Attention(nn.Module):
    """The masks of one task for all stages; `below`: output channels of the decoder's stages."""

    def __init__(self, filters: Sequence[int], below: Sequence[int]) -> None:
        super().__init__()
        seen = [filters[0], *(2 * number for number in filters[1:])]
        self.encoder = _modules(_mask(*pair) for pair in zip(seen, filters, strict=True))
        self.decoder = _modules(
            _mask(stage + out, out) for stage, out in zip(filters, below, strict=True)
        )

    def forward(
        self, encoder: Stages, decoder: Stages, down: nn.ModuleList, up: nn.ModuleList
    ) -> Tensor:
        """Select the task's features `[B, F, H, W]`.

        `down` and `up` are the shared layers between stages.
        """
        features = encoder[0][0][:, :0]  # the first stage has no features of the attention yet
        for stage, (early, late) in enumerate(encoder):
            mask = self.encoder[stage](torch.cat((early, features), 1))
            features = F.max_pool2d(down[stage](mask * late), 2)
        for stage, (unpooled, late) in zip(reversed(range(len(FILTERS))), decoder, strict=True):
            larger = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
            mask = self.decoder[stage](torch.cat((unpooled, up[stage](larger)), 1))
            features = mask * late
        return features


def _modules(modules: Iterable[nn.Module]) -> nn.ModuleList:
    return nn.ModuleList(modules)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _convolutions(channels: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(_convolution(channels, channels) for _ in range(number)))


def _mask(inputs: int, outputs: int) -> nn.Sequential:
    """Make an attention mask: features `[B, inputs, H, W]` → `[B, outputs, H, W]` in (0, 1)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 1),
        nn.BatchNorm2d(outputs),
        nn.Sigmoid(),
    )


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, inputs, 3, padding=1), nn.Conv2d(inputs, outputs, 1))
