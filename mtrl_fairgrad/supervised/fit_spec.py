"""Everything that determines the numbers of a fit: one method on one benchmark with one seed."""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.gradients.official import OFFICIAL, official_convention
from mtrl_fairgrad.supervised.benchmark import Benchmark, Schedule
from mtrl_fairgrad.supervised.config import SupervisedConfig
from mtrl_fairgrad.supervised.fit_folder import single_task_of
from mtrl_fairgrad.weighting import Method, make_method
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair

_OVERRIDES = (
    "epochs",
    "batch_size",
    "learning_rate",
    "halve_every",
    "plateau_threshold",
    "keep_last_batch",
)
"""Fields of the configuration that replace the benchmark's schedule unless they are null."""


@dataclass(frozen=True)
class FitSpec:
    """The specification of a fit."""

    benchmark: dict[str, Any]
    """`name` and the benchmark's own options."""
    method: dict[str, Any]
    """`name` and the method's own options."""
    loss_alpha: float | None
    convention: Convention
    schedule: Schedule
    amp: bool
    seed: int
    representation: bool = False
    """Whether gradients are combined at the network's representation."""
    tasks_per_pass: int | None = None
    """Number of tasks whose gradients one backward pass computes; None: see `backward`."""

    @classmethod
    def from_config(cls, config: SupervisedConfig, benchmark: Benchmark, seed: int) -> FitSpec:
        """Specify the configuration's method on its benchmark with one of the seeds."""
        given = {name: getattr(config, name) for name in _OVERRIDES}
        schedule = {
            **asdict(benchmark.schedule),
            **{name: value for name, value in given.items() if value is not None},
        }
        return cls(
            benchmark=config.benchmark,
            method=config.method,
            loss_alpha=config.loss_alpha,
            convention=_convention(config),
            schedule=Schedule(**schedule),
            amp=config.amp,
            seed=seed,
            representation=config.representation,
            tasks_per_pass=config.tasks_per_pass,
        )

    @property
    def single_task(self) -> int | None:
        """Index of the only task that is trained; None if all are."""
        return single_task_of(self.method)

    def make_method(self) -> Method:
        """Make the method, without sizes yet."""
        method = make_method(**self.method)
        return method if self.loss_alpha is None else alpha_fair(method, self.loss_alpha)

    def plain(self) -> dict[str, Any]:
        """Return the specification as plain values, as its file holds it.

        Fields that version 0.1.0 did not have are left out at their defaults, so that its fits are
        continued.
        """
        values = asdict(self)
        for part in fields(self):
            if part.default is not MISSING and values[part.name] == part.default:
                del values[part.name]
        return json.loads(json.dumps(values))


def _convention(config: SupervisedConfig) -> Convention:
    """Return the configured convention, that of the configured method for `official`."""
    chosen = config.convention
    if chosen.name == OFFICIAL:
        return official_convention(make_method(**config.method))
    return Convention(chosen.own, chosen.scale, chosen.max_norm)
