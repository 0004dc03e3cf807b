"""Methods without state, and the abstract kinds."""

import pytest
import torch

from mtrl_fairgrad.weighting import (
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    Method,
    make_method,
)


@pytest.mark.parametrize("name", ["ls", "fairgrad"])
def test_methods_without_state_need_and_keep_nothing(name: str) -> None:
    method = make_method(name)
    assert method.init(3, (2,)) is method
    assert method.draw([torch.Generator()]) is None
    method.after_step(torch.ones(2, 3))
    method.reset()
    assert method.state_dict() == {}
    assert not method.needs_positive_losses


@pytest.mark.parametrize("kind", [LossWeighting, GramianWeighting, JacobianAggregation])
def test_kinds_are_abstract(kind: type[Method]) -> None:
    with pytest.raises(NotImplementedError, match=kind.__name__):
        kind()(torch.eye(2))
