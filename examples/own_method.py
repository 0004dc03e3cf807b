"""A method of your own, registered in one line, in a training loop and in the agent.

    python examples/own_method.py
    python examples/own_method.py preset=quick steps=2000     # trains MT10 with it

The second command takes a minute or two and needs `pip install "mtrl-fairgrad[rl]"`. Such a run is
resumed by the script too, which knows the method: `python examples/own_method.py resume=FOLDER`.
"""

import sys

import torch
from torch import Tensor, nn

from mtrl_fairgrad import GramianWeighting, Weights, backward, make_method, register_method


@register_method
class InverseNorm(GramianWeighting):
    """Weights `1/‖g_i‖^power`: at 1, every task gradient has the same length.

    Args:
        power: 0 is the plain sum, 1 unit gradients.
    """

    name = "inverse_norm"

    def __init__(self, power: float = 1.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, gramian: Tensor) -> Weights:
        """Return weights `[..., K]` for a Gramian `[..., K, K]`; a zero gradient has weight 0."""
        norms = gramian.diagonal(dim1=-2, dim2=-1).sqrt()
        weights = torch.where(norms > 0, norms.pow(-self.power), 0)
        return Weights(weights, {"norms": norms})


def main() -> None:
    """Take one step of a training loop."""
    torch.manual_seed(0)
    encoder = nn.Linear(4, 8)
    heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(2))
    features = encoder(torch.randn(16, 4)).tanh()
    losses = [head(features).square().mean() for head in heads]
    losses[1] = 100 * losses[1]
    method = make_method("inverse_norm", power=1.0)
    result = backward(losses, method, shared=encoder.parameters(), own=heads.parameters())
    print("lengths of the task gradients:", result["norms"].tolist())
    print("weights:                      ", result["weights"].tolist())


if __name__ == "__main__":
    if sys.argv[1:]:
        from mtrl_fairgrad import train

        sys.exit(train.main(["method=inverse_norm", *sys.argv[1:]]))
    main()
