"""FairGrad and its relatives, for anyone's training loop.

    from mtrl_fairgrad import FairGrad, backward

    backward(losses, FairGrad(alpha=2), shared=model.encoder.parameters(),
    own=model.heads.parameters())

Importing this loads no environment and no configuration library, and PyTorch only with the first
name that is used, since the commands read their command line before it; the agent lives in
`mtrl_fairgrad.train`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtrl_fairgrad.gradients.conventions import CONVENTIONS, Convention
    from mtrl_fairgrad.gradients.per_task import combine, task_gradients
    from mtrl_fairgrad.gradients.shared_graph import Accumulator, backward
    from mtrl_fairgrad.weighting import (
        DBMTL,
        DWA,
        FAMO,
        IMTLG,
        LS,
        MGDA,
        RLW,
        SI,
        STCH,
        STL,
        UW,
        Aggregate,
        AlignedMTL,
        CAGrad,
        FairGrad,
        GradDrop,
        GradVac,
        GramianWeighting,
        JacobianAggregation,
        LossWeighting,
        Method,
        MoCo,
        NashMTL,
        PCGrad,
        UPGrad,
        Weights,
        contract,
        gramian,
        jacobian_like,
        make,
        names,
        options,
        register,
    )
    from mtrl_fairgrad.weighting.alpha_fair import alpha_fair

__all__ = [
    "CONVENTIONS",
    "DBMTL",
    "DWA",
    "FAMO",
    "IMTLG",
    "LS",
    "MGDA",
    "RLW",
    "SI",
    "STCH",
    "STL",
    "UW",
    "Accumulator",
    "Aggregate",
    "AlignedMTL",
    "CAGrad",
    "Convention",
    "FairGrad",
    "GradDrop",
    "GradVac",
    "GramianWeighting",
    "JacobianAggregation",
    "LossWeighting",
    "Method",
    "MoCo",
    "NashMTL",
    "PCGrad",
    "UPGrad",
    "Weights",
    "alpha_fair",
    "backward",
    "combine",
    "contract",
    "gramian",
    "jacobian_like",
    "make",
    "names",
    "options",
    "register",
    "task_gradients",
]

_HOME = {
    **dict.fromkeys(("CONVENTIONS", "Convention"), "gradients.conventions"),
    **dict.fromkeys(("combine", "task_gradients"), "gradients.per_task"),
    "alpha_fair": "weighting.alpha_fair",
    **dict.fromkeys(("Accumulator", "backward"), "gradients.shared_graph"),
}
"""Modules of the names that are not of `weighting`."""


def __getattr__(name: str) -> Any:
    """Import `name` from its module (PEP 562); AttributeError for names that are not in `__all__`."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'weighting')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
