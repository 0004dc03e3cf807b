"""Two tasks on one encoder, trained by FairGrad instead of the sum of their losses.

    python examples/shared_encoder.py

The second task's loss is a hundred times smaller. With the plain sum its gradient hardly counts;
FairGrad improves both. Needs the library only.
"""

import torch
from torch import nn

from mtrl_fairgrad import FairGrad, backward

STEPS = 300


def make_data() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return inputs `[256, 8]` and for each task targets `[256, 1]`."""
    inputs = torch.randn(256, 8)
    first = inputs @ torch.randn(8, 1)
    second = 0.1 * torch.tanh(inputs @ torch.randn(8, 1))
    return inputs, [first, second]


def train(fair: bool) -> list[float]:
    """Train from the same initial parameters; return the final losses, relative to the first."""
    torch.manual_seed(0)
    inputs, targets = make_data()
    encoder = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
    heads = nn.ModuleList(nn.Linear(16, 1) for _ in targets)
    optimizer = torch.optim.SGD([*encoder.parameters(), *heads.parameters()], lr=0.05)
    method = FairGrad(alpha=2)

    first: list[float] = []
    losses: list[torch.Tensor] = []
    for _ in range(STEPS):
        features = encoder(inputs)
        losses = [
            nn.functional.mse_loss(head(features), target)
            for head, target in zip(heads, targets, strict=True)
        ]
        first = first or [loss.item() for loss in losses]
        optimizer.zero_grad()
        if fair:
            backward(losses, method, shared=encoder.parameters(), own=heads.parameters())
            nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        else:
            torch.stack(losses).sum().backward()
        optimizer.step()
    return [loss.item() / start for loss, start in zip(losses, first, strict=True)]


def main() -> None:
    """Print what is left of each task's loss."""
    for name, fair in (("sum of the losses", False), ("FairGrad", True)):
        left = train(fair)
        print(f"{name:20}" + "".join(f"  task {i}: {part:6.1%}" for i, part in enumerate(left)))


if __name__ == "__main__":
    main()
