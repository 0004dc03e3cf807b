"""A small network with one head per task, for the tests of `backward`."""

import torch

from mtrl_fairgrad import LossWeighting
from mtrl_fairgrad.weighting import Weights

K = 3


class Heads(torch.nn.Module):
    """Three regressions from one encoder; the same parameters and data in every instance."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 6)
        )
        self.heads = torch.nn.ModuleList(torch.nn.Linear(6, 1) for _ in range(K))
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
        self.to(dtype)
        self.inputs = torch.randn(12, 4, generator=generator).to(dtype)
        scales = torch.tensor([1.0, 2.0, 4.0]).view(K, 1, 1)
        self.targets = (scales * torch.randn(K, 12, 1, generator=generator)).to(dtype)

    @property
    def groups(self):
        return {"shared": list(self.encoder.parameters()), "own": list(self.heads.parameters())}

    def forward(self, inputs):
        hidden = self.encoder(inputs)
        return hidden, [head(hidden) for head in self.heads]

    def errors(self, outputs, part=slice(None)):
        """The mean squared errors, whose mean over parts of one size is that of all samples."""
        return [
            (output - target[part]).square().mean()
            for output, target in zip(outputs, self.targets, strict=True)
        ]

    def losses(self, part=slice(None)):
        return self.errors(self(self.inputs[part])[1], part)

    def rows(self):
        """Each task's gradient of every parameter, zero where it has none."""
        parameters = list(self.parameters())
        return [
            torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            for loss in self.losses()
        ]

    def grads(self):
        return [
            None if parameter.grad is None else parameter.grad.clone()
            for parameter in self.parameters()
        ]

    def count_encoder_passes(self):
        """A list that grows by one for every backward pass through the encoder."""
        passes = []
        self.encoder[0].register_forward_hook(
            lambda *seen: seen[-1].register_hook(passes.append) and None
        )
        return passes


class Fixed(LossWeighting):
    """Fixed weights, independent of the losses; records the losses it sees."""

    name = "fixed"

    def __init__(self, *weights, positive=False):
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.needs_positive_losses = positive
        self.seen = []

    def forward(self, losses, noise=None):
        self.seen.append(losses.clone())
        return Weights(self.weights.expand(losses.shape).to(losses.dtype), {})


def assert_same(found, expected, **tolerance):
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)
