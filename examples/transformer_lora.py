"""A frozen transformer, adapted to three tasks by one LoRA whose gradients FairGrad combines.

    python examples/transformer_lora.py

Only the low-rank factors are shared between tasks, so they alone are `shared=`: the Jacobian has 3
rows of a few thousand entries, however large the frozen model is. Needs the library only.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from mtrl_fairgrad import FairGrad, backward

WIDTH, WORDS, LENGTH, RANK, STEPS = 32, 8, 5, 4, 300


class LoRA(nn.Module):
    """Adds a product of two small matrices to a frozen weight; at first that product is zero."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, weight.shape[1]) / weight.shape[1] ** 0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight."""
        return weight + self.up @ self.down


class Encoder(nn.Module):
    """Stands for a pretrained model: sentences `[B, L]` to features `[B, WIDTH]`."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, sentences: Tensor) -> Tensor:
        """Return features."""
        return self.layers(self.words(sentences) + self.places).mean(dim=1)


def adapt(encoder: nn.Module) -> list[nn.Parameter]:
    """Freeze an encoder, put a LoRA into its linear layers and attentions; return its parameters.

    With the package peft, it is `[p for p in model.parameters() if p.requires_grad]` instead.
    """
    encoder.requires_grad_(False)
    adapters = nn.ModuleList()
    for module in list(encoder.modules()):
        for name in ("in_proj_weight", "weight"):
            weight = getattr(module, name, None)
            if isinstance(module, nn.Linear | nn.MultiheadAttention) and weight is not None:
                adapters.append(LoRA(weight))
                register_parametrization(module, name, adapters[-1])
    return list(adapters.parameters())


def targets_of(sentences: Tensor) -> list[Tensor]:
    """Return three tasks' labels `[B]`: is the first word early in the alphabet, the last, most?"""
    early = sentences < WORDS // 2
    return [early[:, 0], early[:, -1], early.sum(dim=1) > LENGTH // 2]


def main() -> list[float]:
    """Adapt the encoder; return the last accuracy of each task."""
    torch.manual_seed(0)
    encoder = Encoder()
    shared = adapt(encoder)
    heads = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(3))
    optimizer = torch.optim.Adam([*shared, *heads.parameters()], lr=0.001)
    method = FairGrad(alpha=2)
    adapted = sum(parameter.numel() for parameter in shared)
    frozen = sum(p.numel() for p in encoder.parameters() if not p.requires_grad)
    print(f"{adapted} shared parameters, {frozen} frozen ones")

    accuracy: list[float] = []
    for step in range(STEPS):
        sentences = torch.randint(WORDS, (64, LENGTH))
        targets = targets_of(sentences)
        features = encoder(sentences)
        logits = [head(features).squeeze(-1) for head in heads]
        losses = [
            nn.functional.binary_cross_entropy_with_logits(logit, target.float())
            for logit, target in zip(logits, targets, strict=True)
        ]
        optimizer.zero_grad()
        backward(losses, method, shared=shared, own=heads.parameters())
        nn.utils.clip_grad_norm_(shared, 1.0)
        optimizer.step()
        accuracy = [
            ((logit > 0) == target).float().mean().item()
            for logit, target in zip(logits, targets, strict=True)
        ]
        if step % 50 == 0 or step == STEPS - 1:
            print(f"step {step:3}: accuracy " + ", ".join(f"{each:.2f}" for each in accuracy))
    return accuracy


if __name__ == "__main__":
    main()
