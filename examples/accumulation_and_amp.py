"""Gradient accumulation with mixed precision: the direction of the whole batch, in parts.

    python examples/accumulation_and_amp.py

`Accumulator` adds up the task gradients of the parts and combines them once. The result is the
direction of the whole batch, which the mean of the parts' directions is not. On a GPU give
`device="cuda"`. Needs the library only.
"""

import torch
from torch import nn

from mtrl_fairgrad import Accumulator, FairGrad

PARTS = 4


def main(device: str = "cpu", steps: int = 50) -> float:
    """Train three tasks; return the last mean loss."""
    torch.manual_seed(0)
    inputs = torch.randn(128, 8, device=device)
    targets = [torch.sin(inputs[:, i : i + 1] * (i + 1)) for i in range(3)]
    encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU()).to(device)
    heads = nn.ModuleList(nn.Linear(32, 1) for _ in targets).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], lr=0.01)
    scaler = torch.amp.GradScaler(device)
    accumulator = Accumulator(shared=encoder.parameters(), own=heads.parameters(), scaler=scaler)
    method = FairGrad(alpha=1)

    total = 0.0
    for step in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for part in torch.arange(len(inputs), device=device).chunk(PARTS):
            with torch.autocast(device, dtype=torch.bfloat16):
                features = encoder(inputs[part])
                outputs = [head(features) for head in heads]
            losses = [
                nn.functional.mse_loss(output.float(), target[part]) / PARTS
                for output, target in zip(outputs, targets, strict=True)
            ]
            accumulator.add(losses)  # this part's K gradients; its graph is freed
            total += sum(loss.item() for loss in losses) / len(losses)
        result = accumulator.backward(method)
        scaler.step(optimizer)
        scaler.update()
        if step % 10 == 0:
            weights = ", ".join(f"{weight:.2f}" for weight in result["weights"].tolist())
            print(f"step {step:3}: mean loss {total:.3f}, weights {weights}")
    return total


if __name__ == "__main__":
    main()
