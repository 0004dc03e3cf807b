"""Methods without state, and the abstract kinds."""

import pytest
import torch

from mtrl_fairgrad.weighting import (
    DBMTL,
    RLW,
    FairGrad,
    GramianWeighting,
    JacobianAggregation,
    LossWeighting,
    Method,
    PCGrad,
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


@pytest.mark.parametrize("parent", [PCGrad, RLW, DBMTL, FairGrad])
def test_a_subclass_that_passes_keywords_on_accepts_what_its_parent_does(parent):
    class Passing(parent):
        def forward(self, observed, **optional):
            return super().forward(observed, **optional)

    inputs = {"losses": torch.ones(2), "noise": torch.ones(2)}
    assert Passing().accepted(**inputs).keys() == parent().accepted(**inputs).keys()


@pytest.mark.parametrize(
    ("kind", "names"), [(GramianWeighting, {"losses", "noise"}), (LossWeighting, {"noise"})]
)
def test_a_method_with_any_keywords_accepts_all_inputs_of_its_kind(kind, names):
    class Own(kind):
        def forward(self, observed, **optional):
            raise NotImplementedError

    assert Own().accepted(losses=torch.ones(2), noise=torch.ones(2)).keys() == names
