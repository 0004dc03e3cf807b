"""The conventions of the FairGrad paper's supervised code, which differ between its methods.

Read from `methods/weight_methods.py` of github.com/OptMN-Lab/fairgrad, which continues the code of
Nash-MTL and FAMO. With w the weights of each method as this package defines them:

| methods | shared parameters | own parameters (heads) | length |
|---|---|---|---|
| FairGrad, CAGrad | K · Σ w_i g_i | plain | at most 1 |
| PCGrad, GradDrop | the sum that the method defines | plain | at most 1 |
| LS, SI, RLW, UW, FAMO, STL, IMTL-G, Nash-MTL | Σ w_i g_i | weighted | unlimited |
| MGDA | K · Σ w_i g_i | weighted, times K | unlimited |
| DWA, whose w have the sum K | Σ w_i g_i / K | weighted, divided by K | unlimited |

That code asks for a norm of at most 1 for every method, but for those of the last three rows it
clips the gradients before they are computed, which has no effect.
"""

from __future__ import annotations

from mtrl_fairgrad.gradients.conventions import CONVENTIONS, Convention
from mtrl_fairgrad.utils.validation import check_choice
from mtrl_fairgrad.weighting import LossWeighting, Method
from mtrl_fairgrad.weighting.base import unwrapped

OFFICIAL = "official"
"""Name of the convention that is looked up for each method."""

_CLIPPED = Convention(own="plain", max_norm=1.0)
_WEIGHTED = Convention(own="weighted")
_CONVENTIONS = {
    "fairgrad": CONVENTIONS["official_supervised"],
    "cagrad": CONVENTIONS["official_supervised"],
    "pcgrad": _CLIPPED,
    "graddrop": _CLIPPED,
    "ls": _WEIGHTED,
    "si": _WEIGHTED,
    "rlw": _WEIGHTED,
    "uw": _WEIGHTED,
    "famo": _WEIGHTED,
    "stl": _WEIGHTED,
    "imtl_g": _WEIGHTED,
    "nash_mtl": _WEIGHTED,
    "mgda": Convention(own="weighted", scale="tasks_and_own"),
    "dwa": Convention(own="weighted", scale="mean_and_own"),
}
_OF_MEANS = {
    "ls": Convention(own="weighted", scale="tasks_and_own"),
    "pcgrad": CONVENTIONS["official_supervised"],
}
"""The conventions for `reduction="mean"` that give the same gradients as for `"sum"`."""
OFFICIAL_METHODS = tuple(_CONVENTIONS)
"""Names of the methods that the code has."""


def official_convention(method: Method) -> Convention:
    """Return the convention of the FairGrad paper's supervised code for a method.

    LS and PCGrad end with the same gradients for both values of `reduction`. The code lacks some of
    this package's methods: loss weightings among them have the convention of its loss weightings,
    the others that of FairGrad.

    Args:
        method: any, possibly under the α-fair loss transformation, which changes nothing here.
    """
    method = unwrapped(method)
    if getattr(method, "reduction", "sum") == "mean" and method.name in _OF_MEANS:
        return _OF_MEANS[method.name]
    default = _WEIGHTED if isinstance(method, LossWeighting) else CONVENTIONS["official_supervised"]
    return _CONVENTIONS.get(method.name, default)


def check_convention(convention: object) -> Convention | str:
    """Return a preset by its name; a `Convention` and the name `"official"` as they are.

    Raises:
        ConfigError: the name is unknown.
        TypeError: neither a `Convention` nor a name.
    """
    if isinstance(convention, Convention):
        return convention
    names = (*CONVENTIONS, OFFICIAL)
    if not isinstance(convention, str):
        raise TypeError(
            f"convention is a {type(convention).__name__}: give a Convention or one of the names "
            f"{', '.join(names)}."
        )
    name = check_choice("convention", convention, names)
    return CONVENTIONS.get(name, name)


def resolve_convention(convention: Convention | str, method: Method) -> Convention:
    """Return the convention of a name, `"official"` for this method; errors: `check_convention`."""
    checked = check_convention(convention)
    return official_convention(method) if isinstance(checked, str) else checked
