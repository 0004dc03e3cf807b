"""A small network of one's own, for tests of registered networks."""

from torch import nn


class Gated(nn.Module):
    """Two layers, one of which multiplies the other."""

    def __init__(self, inputs, outputs, width, depth):
        super().__init__()
        self.value, self.gate = nn.Linear(inputs, width), nn.Linear(inputs, width)
        self.head = nn.Linear(width, outputs)

    def forward(self, rows):
        return self.head(self.value(rows).relu() * self.gate(rows).sigmoid())
