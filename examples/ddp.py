"""Two processes with half of each batch: FairGrad under DistributedDataParallel.

    torchrun --nproc_per_node 2 examples/ddp.py

`backward` averages losses and task gradients over the processes before it combines them, so each
process takes the step of the whole batch. The forward pass runs in `no_sync()`, because DDP's own
average would be of gradients that are combined already. Needs the library only.
"""

import contextlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mtrl_fairgrad import FairGrad, backward

STEPS = 50


class Model(nn.Module):
    """An encoder with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(16, 1) for _ in range(2))

    def forward(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the prediction `[B, 1]` of each task."""
        features = self.encoder(inputs)
        return [head(features) for head in self.heads]


def train(rank: int, processes: int) -> tuple[float, list[float]]:
    """Train on this process's share of each batch; return a checksum and the last losses."""
    torch.manual_seed(rank)  # the processes differ until DDP sends them those of process 0
    model = Model()
    model = DistributedDataParallel(model) if processes > 1 else model
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    assert isinstance(inner, Model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method = FairGrad(alpha=2)
    data = torch.Generator().manual_seed(0)  # the same batches everywhere, of which each takes part
    losses: list[torch.Tensor] = []
    for _ in range(STEPS):
        batch = torch.randn(64, 8, generator=data)
        inputs = batch.chunk(processes)[rank]
        targets = [inputs[:, :1].sin(), 10 * inputs[:, 1:2].cos()]
        unsynced = getattr(model, "no_sync", contextlib.nullcontext)
        with unsynced():
            outputs = model(inputs)
            losses = [
                nn.functional.mse_loss(output, target)
                for output, target in zip(outputs, targets, strict=True)
            ]
            optimizer.zero_grad()
            backward(
                losses,
                method,
                shared=inner.encoder.parameters(),
                own=inner.heads.parameters(),
            )
        nn.utils.clip_grad_norm_(inner.encoder.parameters(), 1.0)
        optimizer.step()
    checksum = sum(parameter.double().sum().item() for parameter in model.parameters())
    return checksum, [loss.item() for loss in losses]


def main() -> None:
    """Train in the processes that torchrun has started, or alone."""
    processes = 1
    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")  # "nccl" on GPUs
        processes = dist.get_world_size()
    rank = dist.get_rank() if processes > 1 else 0
    checksum, losses = train(rank, processes)
    shown = ", ".join(f"{loss:.3f}" for loss in losses)
    print(f"process {rank} of {processes}: parameters sum to {checksum:.6f}, losses {shown}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
