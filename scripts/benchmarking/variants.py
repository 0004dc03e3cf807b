"""Forms in which an update can run on a GPU, and the updates that the section `gpu` compares.

* `eager`: Python launches each operation.
* `graph`: the update is replayed from CUDA graphs.
* `compiled graph`: besides, `torch.compile` fuses task gradients and targets; of `lean_sac` the
  whole updates.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from mtrl_fairgrad.training.execution import configure_torch
from mtrl_fairgrad.utils.faults import FallbackWarning
from mtrl_fairgrad.weighting import method_names

from . import update
from .lean import LeanSAC
from .plain import PlainSAC, Source, mean_of_losses, torchjd_fairgrad
from .replay import replayed
from .settings import TINY, Settings, Size

EAGER, GRAPH, COMPILED = "eager", "graph", "compiled graph"
FORMS = {
    EAGER: {"cuda_graph": "false", "compile": "false"},
    GRAPH: {"cuda_graph": "true", "compile": "false"},
    COMPILED: {"cuda_graph": "true", "compile": "true"},
}
"""Form -> options of the training."""

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **update.METHODS,
    **{
        name: (name, {})
        for name in method_names()
        if name not in {method for method, _ in update.METHODS.values()}
    },
}
"""All methods, FairGrad with two solvers."""
PLAIN, LEAN, TORCHJD = "plain_ls", "lean_sac", "torchjd_fairgrad"


class LeftOut(Exception):
    """An update that this machine cannot make, with the reason."""


class Variant(NamedTuple):
    """One way to make an update, in one form and at one size."""

    way: str
    """One of `METHODS`, or `PLAIN`, `LEAN` or `TORCHJD`."""
    form: str
    precision: str = "fp32"
    batch: int = 128
    """Samples of each task."""
    seeds: int = 1
    tasks: int = 10

    @property
    def name(self) -> str:
        """Way and form, and what differs from the defaults."""
        usual = Variant._field_defaults
        words = {
            "precision": self.precision,
            "batch": f"{self.batch} a task",
            "seeds": f"{self.seeds} seeds",
            "tasks": f"K={self.tasks}",
        }
        differing = (words[key] for key in words if getattr(self, key) != usual[key])
        return ", ".join([self.way, self.form, *differing])

    def size(self, quick: bool) -> Size:
        """Return the sizes of networks and batches."""
        if quick:
            return replace(
                TINY,
                tasks=max(TINY.tasks, self.tasks // 10),
                batch=max(TINY.batch, self.batch // 128),
                seeds=min(self.seeds, 2),
            )
        return replace(Size(), tasks=self.tasks, batch=self.batch, seeds=self.seeds)


def updates(variant: Variant, settings: Settings) -> Callable[[], None]:
    """Return a function that makes one update, after all warm-up and capture.

    Raises:
        LeftOut: this machine cannot run it.
    """
    if variant.form != EAGER and settings.device.type != "cuda":
        raise LeftOut("CUDA graphs need a CUDA device")
    size = variant.size(settings.quick)
    if variant.way in METHODS:
        return _ours(variant, size, settings)
    return _plain(variant, size, settings)


def _ours(variant: Variant, size: Size, settings: Settings) -> Callable[[], None]:
    """Return updates of our agent, with an error where a graph or compilation is given up.

    The precision is a setting of the process, which a captured graph keeps.
    """
    options = {**FORMS[variant.form], "precision": variant.precision}
    config = update.configuration(size, settings.device, METHODS[variant.way], **options)
    before = torch.get_float32_matmul_precision()
    configure_torch(config, settings.device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FallbackWarning)
            made = update.updates(update.filled(config, size, settings.device))
    finally:
        torch.set_float32_matmul_precision(before)
    return made


def _plain(variant: Variant, size: Size, settings: Settings) -> Callable[[], None]:
    """Return updates of plain PyTorch code; `lean_sac` has one task with the batch of all."""
    device = settings.device
    if variant.way == TORCHJD and importlib.util.find_spec("torchjd") is None:
        raise LeftOut("TorchJD is not installed")
    if variant.way == LEAN:
        size = replace(
            size,
            tasks=1,
            batch=size.tasks * size.batch,
            observation=max(size.observation - size.tasks, 1),
        )
        agent: Any = LeanSAC(size, device, compile=variant.form == COMPILED)
    else:
        combine = torchjd_fairgrad if variant.way == TORCHJD else mean_of_losses
        agent = PlainSAC(combine, size, device)
    source = Source(size, device)
    if variant.form == EAGER:
        return lambda: agent.update(*source.draw())
    return replayed(lambda drawn: agent.update(*source.read(drawn)), source.numbers)
