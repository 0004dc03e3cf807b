"""One method on one benchmark with one seed, from the first epoch to the last, or from where it was
interrupted.

A fit's folder:

    fit.json        what was asked; a folder is only continued by the same spec
    epochs.csv      losses and metrics of every epoch
    checkpoints/    after every epoch; see `mtrl_fairgrad.runs.checkpoint.store`
    outcome.json    the result, once there is one
    events.…        TensorBoard

Every epoch draws from generators made from the seed and the epoch's number, so that a fit that was
interrupted ends as one that was not.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.gradients.conventions import Convention
from mtrl_fairgrad.gradients.shared_graph import backward
from mtrl_fairgrad.runs.checkpoint.store import CheckpointStore
from mtrl_fairgrad.runs.tensorboard_writer import EventFile
from mtrl_fairgrad.supervised.benchmark import Benchmark, Schedule
from mtrl_fairgrad.supervised.config import SupervisedConfig
from mtrl_fairgrad.utils.atomic_io import RunFolderError, write_atomic
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.text_tables import csv_text
from mtrl_fairgrad.weighting import Method, jacobian_like, make_method
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair


@dataclass(frozen=True)
class FitSpec:
    """What defines the numbers of a fit."""

    benchmark: dict[str, Any]
    method: dict[str, Any]
    loss_alpha: float | None
    convention: Convention
    schedule: Schedule
    amp: bool
    seed: int

    @classmethod
    def of(cls, config: SupervisedConfig, benchmark: Benchmark, seed: int) -> FitSpec:
        """The configuration's method on its benchmark with one of the seeds."""
        given = {
            name: getattr(config, name)
            for name in ("epochs", "batch_size", "learning_rate", "halve_every")
        }
        schedule = {
            **asdict(benchmark.schedule),
            **{name: value for name, value in given.items() if value is not None},
        }
        chosen = config.convention
        return cls(
            config.benchmark,
            config.method,
            config.loss_alpha,
            Convention(chosen.own, chosen.scale, chosen.max_norm),
            Schedule(**schedule),
            config.amp,
            seed,
        )


@dataclass(frozen=True)
class FitResult:
    """The result of a fit."""

    metrics: dict[str, float]
    """Of the test data: means over the benchmark's last epochs, or of its selected epoch."""
    validation: dict[str, float]
    """The same of the validation data."""
    seconds_per_epoch: float
    """Median over epochs, of training alone."""


def fit(
    spec: FitSpec,
    benchmark: Benchmark,
    folder: Path,
    device: torch.device,
    progress: bool,
    workers: int = 0,
) -> FitResult:
    """Train, validate and test; what is in the folder already is not done again.

    Raises:
        ConfigError: the folder holds the answer to another question.
        DataError: missing or broken data.
        TrainingFault: a loss that is no number.
    """
    _claim(folder, spec)
    done = folder / "outcome.json"
    if done.is_file():
        return FitResult(**json.loads(done.read_text()))
    result = _Fit(spec, benchmark, folder, device, workers).run(progress)
    write_atomic(done, json.dumps(asdict(result), indent=1).encode() + b"\n")
    return result


def _claim(folder: Path, spec: FitSpec) -> None:
    path, asked = folder / "fit.json", json.loads(json.dumps(asdict(spec)))
    if path.is_file():
        found = json.loads(path.read_text())
        changed = [key for key in asked if found.get(key) != asked[key]]
        if changed:
            raise ConfigError(
                f"{folder} holds a fit with another {' and '.join(changed)} "
                f"({found.get(changed[0])} there, {asked[changed[0]]} now): choose another "
                "run_dir, or ask for the same."
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asked, indent=1).encode() + b"\n")
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written ({error.strerror}): choose another run_dir."
        ) from error


class _Fit:
    def __init__(
        self,
        spec: FitSpec,
        benchmark: Benchmark,
        folder: Path,
        device: torch.device,
        workers: int,
    ) -> None:
        self.spec, self.benchmark, self.device = spec, benchmark, device
        schedule, tasks = spec.schedule, len(benchmark.tasks)
        self.splits = benchmark.splits(
            spec.seed, schedule.batch_size, workers, device.type == "cuda"
        )
        torch.manual_seed(spec.seed)
        self.model = benchmark.model().to(device)
        self.shared, self.own = (
            list(self.model.shared_parameters()),
            list(self.model.own_parameters()),
        )
        self.method = (
            make_method(spec).init(tasks, template=jacobian_like(self.shared, tasks)).to(device)
        )
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.store, self.folder = CheckpointStore(folder), folder
        self.history: list[dict[str, Any]] = []

    def run(self, progress: bool) -> FitResult:
        epochs = self.spec.schedule.epochs
        self._resume()
        events = EventFile(self.folder, purge_step=len(self.history))
        name = f"{self.spec.method['name']} seed {self.spec.seed}"
        progress_bar = tqdm(
            total=epochs, initial=len(self.history), desc=name, disable=not progress, leave=False
        )
        with closing(events), progress_bar as bar:
            for epoch in range(len(self.history), epochs):
                record = self._epoch(epoch)
                self.history.append(record)
                for key, value in _flat(record).items():
                    events.add_scalar(key, value, epoch)
                events.flush()
                self._save()
                bar.set_postfix(
                    {key: f"{value:.4g}" for key, value in list(record["test"].items())[:3]}
                )
                bar.update()
        return self._result()

    # ---- an epoch ----

    def _epoch(self, epoch: int) -> dict[str, Any]:
        generator = self._seed(epoch)
        started = time.perf_counter()
        losses = self._train(generator)
        seconds = time.perf_counter() - started
        wrong = [
            task
            for task, loss in zip(self.benchmark.tasks, losses, strict=True)
            if not math.isfinite(loss)
        ]
        if wrong:
            raise TrainingFault(
                f"in epoch {epoch + 1} the loss of {', '.join(wrong)} is not finite, so the fit "
                "stopped; the last "
                f"checkpoint in {self.folder} is untouched."
            )
        validation, test = self._measure(self.splits.validation), None
        test = (
            validation
            if self.splits.test is self.splits.validation
            else self._measure(self.splits.test)
        )
        self._adapt(epoch, validation)
        named = dict(zip(self.benchmark.tasks, losses, strict=True))
        return {"losses": named, "validation": validation, "test": test, "seconds": seconds}

    def _seed(self, epoch: int) -> torch.Generator:
        """Set every generator an epoch draws from; returns the methods'."""
        words = np.random.SeedSequence([self.spec.seed, epoch]).generate_state(3, np.uint64)
        shuffling, everything, drawing = (int(word >> np.uint64(1)) for word in words)
        torch.manual_seed(everything)
        assert self.splits.train.generator is not None
        self.splits.train.generator.manual_seed(shuffling)
        return torch.Generator().manual_seed(drawing)

    def _train(self, generator: torch.Generator) -> list[float]:
        """One pass over the training data; the mean losses."""
        self.model.train()
        total, batches = torch.zeros(len(self.benchmark.tasks), device=self.device), 0
        for batch in self.splits.train:
            batch = _to(batch, self.device)
            losses = self._losses(batch)
            self.optimizer.zero_grad()
            backward(
                losses,
                self.method,
                shared=self.shared,
                own=self.own,
                noise=generator,
                convention=self.spec.convention,
            )
            self.optimizer.step()
            if self.method.looks_after_step:
                with torch.no_grad():
                    self.method.after_step(torch.stack(list(self._losses(batch))))
            total += torch.stack([loss.detach() for loss in losses])
            batches += 1
        return (total / max(batches, 1)).tolist()

    def _losses(self, batch: Any) -> list[Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.amp):
            outputs = self.model(*self.benchmark.inputs(batch))
            return [loss.float() for loss in self.benchmark.losses(outputs, batch)]

    @torch.no_grad()
    def _measure(self, loader: DataLoader[Any]) -> dict[str, float]:
        self.model.eval()
        meter = self.benchmark.meter()
        for batch in loader:
            batch = _to(batch, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.amp):
                outputs = self.model(*self.benchmark.inputs(batch))
            meter.update(outputs, batch)
        return meter.values()

    def _adapt(self, epoch: int, validation: Mapping[str, float]) -> None:
        """Lower the learning rate where the schedule says so."""
        schedule = self.spec.schedule
        if schedule.halve_every is not None and (epoch + 1) % schedule.halve_every == 0:
            self._scale_rate(0.5)
        if schedule.plateau is not None:
            factor, patience, lowest = schedule.plateau
            scores = [self._score(record["validation"]) for record in self.history]
            if stalled([*scores, self._score(validation)], patience):
                self._scale_rate(factor, lowest)

    def _score(self, validation: Mapping[str, float]) -> float:
        """The benchmark's score, of the one task that is trained if it is only one."""
        only = self.spec.method.get("task") if self.spec.method["name"] == "stl" else None
        counted = [
            m.name
            for m in self.benchmark.metrics
            if only is None or m.task == self.benchmark.tasks[only]
        ]
        score = self.benchmark.score({name: validation[name] for name in counted})
        return math.inf if math.isnan(score) else score

    def _scale_rate(self, factor: float, lowest: float = 0.0) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = max(group["lr"] * factor, lowest)

    # ---- results ----

    def _result(self) -> FitResult:
        if self.benchmark.select_best:
            chosen = [min(self.history, key=lambda record: self._score(record["validation"]))]
        else:
            chosen = self.history[-self.benchmark.last_epochs :]

        def mean(split: str) -> dict[str, float]:
            return {
                name: float(np.mean([record[split][name] for record in chosen]))
                for name in chosen[0][split]
            }

        seconds = float(np.median([record["seconds"] for record in self.history]))
        return FitResult(mean("test"), mean("validation"), seconds)

    def _save(self) -> None:
        groups = {
            "model": dict(self.model.state_dict()),
            "method": dict(self.method.state_dict()),
            "optimizer": _optimizer_tensors(self.optimizer),
        }
        rate = self.optimizer.param_groups[0]["lr"]
        self.store.save(len(self.history), groups, {"history": self.history, "learning_rate": rate})
        rows = [_flat(record) for record in self.history]
        columns = list(rows[0])
        lines = [
            [epoch, *(row[column] for column in columns)] for epoch, row in enumerate(rows, start=1)
        ]
        write_atomic(self.folder / "epochs.csv", csv_text([["epoch", *columns], *lines]).encode())

    def _resume(self) -> None:
        self.store.sweep()
        if not self.store.all():
            return
        saved = self.store.resume(
            {"model": self.model.state_dict(), "method": self.method.state_dict()}
        )
        self.model.load_state_dict(saved.groups["model"])
        self.method.load_state_dict(saved.groups.get("method", {}))
        _load_optimizer(self.optimizer, saved.groups["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = saved.state["learning_rate"]
        self.history = saved.state["history"]


def stalled(scores: Sequence[float], patience: int) -> bool:
    """Whether the rate should fall now: the last patience + 1 scores have not improved on the best
    before them.

    The rule of PyTorch's ReduceLROnPlateau without threshold or cooldown; after a fall it waits as
    long again.
    """
    waited = len(scores) - 1 - int(np.argmin(scores))
    return waited > 0 and waited % (patience + 1) == 0


def make_method(spec: FitSpec) -> Method:
    """The method that was asked for, without sizes yet."""
    options = {key: value for key, value in spec.method.items() if key != "name"}
    method = make_method(spec.method["name"], **options)
    return method if spec.loss_alpha is None else alpha_fair(method, spec.loss_alpha)


def _to(batch: Any, device: torch.device) -> Any:
    """Tensors of a batch on the device; anything else with a `to` likewise."""
    if isinstance(batch, list | tuple):
        return tuple(_to(part, device) for part in batch)
    if isinstance(batch, Mapping):
        return {key: _to(part, device) for key, part in batch.items()}
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch


def _flat(record: Mapping[str, Any]) -> dict[str, float]:
    """A record as TensorBoard tags and CSV columns."""
    parts = {
        f"{split}/{name}": value
        for split in ("losses", "validation", "test")
        for name, value in record[split].items()
    }
    return {**parts, "seconds": record["seconds"]}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{entry}": value
        for index, entries in optimizer.state_dict()["state"].items()
        for entry, value in entries.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, entry = name.partition(".")
        state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
