"""Adam as a module: PyTorch's steps, element by element."""

import pytest
import torch

from mtrl_fairgrad.weighting.adam import Adam

STEPS = 20


def gradients(*shape: int) -> torch.Tensor:
    scales = 10.0 ** torch.linspace(-6, 3, shape[-1], dtype=torch.float64)
    return scales * torch.randn(
        STEPS, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4)])
def test_it_is_pytorchs(shape: tuple[int, ...], weight_decay: float) -> None:
    ours = torch.ones(shape, dtype=torch.float64)
    theirs = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    adam, optimizer = Adam(shape), torch.optim.Adam([theirs], 0.05, weight_decay=weight_decay)
    for gradient in gradients(*shape):
        adam.step(ours, gradient, torch.tensor(True), 0.05, weight_decay)
        theirs.grad = gradient
        optimizer.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_an_element_left_out_of_a_step_never_saw_it() -> None:
    value, alone = torch.zeros(2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    adam, single = Adam((2, 3)), Adam((3,))
    for step, gradient in enumerate(gradients(2, 3)):
        takes_part = torch.tensor([[True], [step % 3 != 1]])
        gradient[1] = torch.where(takes_part[1], gradient[1], torch.nan)
        adam.step(value, gradient, takes_part, 0.05, 0.1)
        if takes_part[1]:
            single.step(alone, gradient[1], torch.tensor(True), 0.05, 0.1)
    assert torch.equal(value[1], alone)
    assert torch.equal(adam.steps, torch.tensor([[20.0], [13.0]], dtype=torch.float64))


def test_reset_forgets() -> None:
    adam = Adam((2, 3))
    value = torch.zeros(2, 3, dtype=torch.float64)
    adam.step(value, torch.ones(2, 3), torch.tensor(True), 0.05)
    assert all(value.any() for value in adam.state_dict().values())
    adam.reset()
    assert sorted(adam.state_dict()) == ["mean", "square", "steps"]
    assert not any(value.any() for value in adam.state_dict().values())
