"""A network of your own as actor and critics of the agent: a module, registered by one line.

    python examples/own_network.py                  # a minute

Its parameters are initialised for each seed and copied for each network; no loop, no batch axis of
seeds or tasks is needed in it. Needs `pip install "mtrl-fairgrad[rl]"`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import mtrl_fairgrad
from mtrl_fairgrad import Run, register_network


@register_network("gated")
class Gated(nn.Module):
    """Layers whose outputs are gated by the inputs, so that tasks can switch features on and off.

    Args:
        inputs: length of an observation (and action, in a critic).
        outputs: length of what the actor or critic needs.
        width: of each layer, `agent.width`.
        depth: number of layers, `agent.depth`.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, width) for a in sizes[:-1])
        self.gates = nn.ModuleList(nn.Linear(inputs, width) for _ in sizes[:-1])
        self.output = nn.Linear(sizes[-1], outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs `[..., outputs]` of inputs `[..., inputs]`."""
        hidden = inputs
        for layer, gate in zip(self.layers, self.gates, strict=True):
            hidden = torch.relu(layer(hidden)) * torch.sigmoid(gate(inputs))
        return self.output(hidden)


OPTIONS = (
    "env.tasks=[reach-v3,drawer-close-v3]",
    "preset=quick",
    "agent.network=gated",
    "steps=2000",
    "eval.every=1000",
)


def main(*options: str, folder: Path = Path("runs/own_network")) -> Run:
    """Train with FairGrad; return the run."""
    return mtrl_fairgrad.train(*OPTIONS, f"run_dir={folder}", "resume=auto", *options)


if __name__ == "__main__":
    print(main().evaluations)
