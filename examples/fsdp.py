"""An encoder that is sharded over processes: FairGrad under `fully_shard` (FSDP2).

    torchrun --nproc_per_node 2 examples/fsdp.py

Nothing changes in the call: task gradients stay sharded, and inner products are summed over the
processes. Each process holds its part of the parameters, of the Jacobian and of the optimiser's
state. Needs the library only.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mtrl_fairgrad import FairGrad, backward

STEPS = 30


def train(sharded: bool, rank: int, processes: int) -> list[float]:
    """Train on this process's share of each batch; return the last losses of the whole batch."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16)
    )
    heads = nn.ModuleList(nn.Linear(16, 1) for _ in range(2))
    if sharded:
        mesh = init_device_mesh("cpu", (processes,))
        for layer in encoder:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
        for head in heads:
            fully_shard(head, mesh=mesh)
        held = sum(p.to_local().numel() for p in encoder.parameters() if isinstance(p, DTensor))
        total = sum(p.numel() for p in encoder.parameters())
        print(f"process {rank} of {processes} holds {held} of {total} parameters of the encoder")
    optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], lr=0.01)
    method = FairGrad(alpha=2)
    losses: list[torch.Tensor] = []
    for step in range(STEPS):
        batch = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
        inputs = batch.chunk(processes)[rank]
        features = encoder(inputs)
        targets = [inputs[:, :1].sin(), 10 * inputs[:, 1:2].cos()]
        losses = [
            nn.functional.mse_loss(head(features), target)
            for head, target in zip(heads, targets, strict=True)
        ]
        optimizer.zero_grad()
        backward(losses, method, shared=encoder.parameters(), own=heads.parameters())
        optimizer.step()
    values = torch.stack([loss.detach() for loss in losses])
    if processes > 1:
        dist.all_reduce(values)
    return (values / processes).tolist()


def main() -> None:
    """Train in the processes that torchrun has started, or alone and unsharded."""
    sharded = dist.is_torchelastic_launched()
    if sharded:
        dist.init_process_group("gloo")  # "nccl" on GPUs, and a mesh of "cuda"
    rank, processes = (dist.get_rank(), dist.get_world_size()) if sharded else (0, 1)
    losses = train(sharded, rank, processes)
    if rank == 0:
        print("losses of the whole batch: " + ", ".join(f"{loss:.4f}" for loss in losses))
    if sharded:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
