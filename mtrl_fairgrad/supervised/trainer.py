"""Training of one fit, from the first epoch to the last or from its newest checkpoint.

Every epoch draws from generators seeded by the fit's seed and the number of the epoch, so that an
interrupted fit that is continued ends bit for bit as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from mtrl_fairgrad.gradients.shared_graph import backward
from mtrl_fairgrad.runs.manifest import provenance
from mtrl_fairgrad.runs.resume_log import add_resume
from mtrl_fairgrad.runs.tensorboard_writer import EventFile
from mtrl_fairgrad.supervised.benchmark import Benchmark, with_last_batch
from mtrl_fairgrad.supervised.epochs import EpochRecord, epoch_score, epochs_csv, result_of
from mtrl_fairgrad.supervised.fit_folder import EPOCHS, FitFolder, FitResult
from mtrl_fairgrad.supervised.fit_spec import FitSpec
from mtrl_fairgrad.utils.atomic_io import write_atomic
from mtrl_fairgrad.utils.faults import TrainingFault
from mtrl_fairgrad.utils.optimizer_state import adam_tensors, load_adam_tensors
from mtrl_fairgrad.weighting import JacobianAggregation, Method, jacobian_like

_ADAM_KEY = "{name}.{entry}"
KEPT = 2
"""Number of checkpoints of a fit that is not finished."""


class Trainer:
    """The training of one fit.

    Args:
        spec: what to train.
        benchmark: the benchmark that the specification names.
        folder: run folder of the fit, locked by the caller.
        device: where the network and its batches are.
        workers: number of data loader processes; 0 loads in this process.

    Raises:
        DataError: the data are missing or damaged.
    """

    def __init__(
        self,
        spec: FitSpec,
        benchmark: Benchmark,
        folder: FitFolder,
        device: torch.device,
        workers: int = 0,
    ) -> None:
        self.spec, self.benchmark, self.folder, self.device = spec, benchmark, folder, device
        schedule = spec.schedule
        self.splits = benchmark.splits(
            spec.seed, schedule.batch_size, workers, device.type == "cuda"
        )
        if schedule.keep_last_batch:
            self.splits = replace(self.splits, train=with_last_batch(self.splits.train))
        torch.manual_seed(spec.seed)
        self.model = benchmark.model().to(device)
        self.shared = list(self.model.shared_parameters())
        self.own = list(self.model.own_parameters())
        self._features: list[Tensor] = []
        if spec.representation:
            self._watch_representation()
        self.method = self._make_method()
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.history: list[EpochRecord] = []

    def _make_method(self) -> Method:
        """Make the method, sized for the shared parameters or for the representation."""
        method, tasks = self.spec.make_method(), len(self.benchmark.tasks)
        combined: Sequence[Tensor] = self.shared
        if self.spec.representation and isinstance(method, JacobianAggregation):
            batch = to_device(next(iter(self.splits.train)), self.device)
            # In evaluation mode, so that batch normalisation does not see this batch twice.
            self.model.eval()
            with torch.no_grad():
                self._losses(batch)
            combined = [part.detach().requires_grad_() for part in self._features]
        return method.init(tasks, template=jacobian_like(combined, tasks)).to(self.device)

    def _watch_representation(self) -> None:
        """Store the output of the network's representation layer in every forward pass."""
        name = self.benchmark.representation
        if name is None:
            raise ValueError(
                f"{self.benchmark.name}'s network has no layer through which all shared "
                "parameters act: leave representation=true out."
            )

        def store(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            self._features = [output]

        self.model.get_submodule(name).register_forward_hook(store)

    def run(self, progress: bool) -> FitResult:
        """Train the epochs that are left, with a checkpoint after each.

        Args:
            progress: whether to show a progress bar.

        Raises:
            TrainingFault: a task's loss became NaN or infinite.
            CheckpointError: a checkpoint could not be read or written.
        """
        epochs = self.spec.schedule.epochs
        self.resume()
        events = EventFile(self.folder.path, purge_step=len(self.history))
        progress_bar = tqdm(
            total=epochs,
            initial=len(self.history),
            desc=f"{self.spec.method['name']} seed {self.spec.seed}",
            disable=not progress,
            leave=False,
        )
        with closing(events), progress_bar as bar:
            for epoch in range(len(self.history), epochs):
                record = self.run_epoch(epoch)
                self.history.append(record)
                for tag, value in record.scalars().items():
                    events.add_scalar(tag, value, epoch)
                events.flush()
                self.save()
                shown = list(record.test.items())[:3]
                bar.set_postfix({name: f"{value:.4g}" for name, value in shown})
                bar.update()
        return self.result()

    # ---- an epoch ----

    def run_epoch(self, epoch: int) -> EpochRecord:
        """Train, validate and test, then update the learning rate; `epoch` counts from 0."""
        generator = self._seed_epoch(epoch)
        started = time.perf_counter()
        losses = self._train(generator)
        seconds = time.perf_counter() - started
        named = dict(zip(self.benchmark.tasks, losses, strict=True))
        diverged = [task for task, loss in named.items() if not math.isfinite(loss)]
        if diverged:
            raise TrainingFault(
                f"in epoch {epoch + 1} the loss of {', '.join(diverged)} is not finite: try a "
                f"smaller learning_rate; the last checkpoint in {self.folder.path} is untouched."
            )
        validation = self._measure(self.splits.validation)
        same = self.splits.test is self.splits.validation
        test = validation if same else self._measure(self.splits.test)
        self._update_learning_rate(epoch, validation)
        return EpochRecord(named, validation, test, seconds)

    def _seed_epoch(self, epoch: int) -> torch.Generator:
        """Seed every generator that an epoch draws from; returns the one of the method."""
        words = np.random.SeedSequence([self.spec.seed, epoch]).generate_state(3, np.uint64)
        shuffling, default, method = (int(word >> np.uint64(1)) for word in words)
        torch.manual_seed(default)
        assert self.splits.train.generator is not None
        self.splits.train.generator.manual_seed(shuffling)
        return torch.Generator().manual_seed(method)

    def _train(self, generator: torch.Generator) -> list[float]:
        """Make one pass over the training data; returns the mean loss of each task."""
        self.model.train()
        total, batches = torch.zeros(len(self.benchmark.tasks), device=self.device), 0
        for batch in self.splits.train:
            batch = to_device(batch, self.device)
            losses = self._losses(batch)
            self.optimizer.zero_grad()
            backward(
                losses,
                self.method,
                shared=self.shared,
                own=self.own,
                noise=generator,
                representation=self._features if self.spec.representation else None,
                tasks_per_pass=self.spec.tasks_per_pass,
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
            batch = to_device(batch, self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.amp):
                outputs = self.model(*self.benchmark.inputs(batch))
            meter.update(outputs, batch)
        return meter.values()

    # ---- learning rate and score ----

    def _update_learning_rate(self, epoch: int, validation: Mapping[str, float]) -> None:
        schedule = self.spec.schedule
        if schedule.halve_every is not None and (epoch + 1) % schedule.halve_every == 0:
            self._scale_learning_rate(0.5)
        if schedule.plateau is not None:
            factor, patience, lowest = schedule.plateau
            scores = [
                epoch_score(values, self.benchmark, self.spec.single_task)
                for values in (*(record.validation for record in self.history), validation)
            ]
            threshold = schedule.plateau_threshold or 0.0
            if threshold and self.spec.single_task is None:
                scores = [self.benchmark.delta_m(score) for score in scores]
            if on_plateau(scores, patience, threshold):
                self._scale_learning_rate(factor, lowest)

    def _scale_learning_rate(self, factor: float, lowest: float = 0.0) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = max(group["lr"] * factor, lowest)

    # ---- results and checkpoints ----

    def result(self) -> FitResult:
        """Return the result of the epochs so far, of which there must be at least one."""
        return result_of(self.history, self.benchmark, self.spec.single_task)

    def save(self) -> None:
        """Write a checkpoint, then rewrite epochs.csv.

        That of the last epoch is the only one that is kept, and has no optimizer, since nothing is
        left to train.
        """
        finished = len(self.history) == self.spec.schedule.epochs
        groups = {
            "model": dict(self.model.state_dict()),
            "method": dict(self.method.state_dict()),
        }
        if not finished:
            moments = adam_tensors(self.optimizer, self._parameter_names(), _ADAM_KEY)
            groups["optimizer"] = moments
        state = {
            "history": [asdict(record) for record in self.history],
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        keep = 1 if finished else KEPT
        self.folder.save_checkpoint(len(self.history), groups, state, keep)
        write_atomic(self.folder.path / EPOCHS, epochs_csv(self.history).encode())

    def resume(self) -> None:
        """Continue from the newest checkpoint, if there is any.

        Raises:
            RunFolderError: no checkpoint is intact, or there is none but there are epochs.
        """
        if not self.folder.has_checkpoint():
            self.folder.check_start_over()
            return
        saved = self.folder.resume_checkpoint(
            {"model": self.model.state_dict(), "method": self.method.state_dict()}
        )
        self.model.load_state_dict(saved.groups["model"])
        self.method.load_state_dict(saved.groups.get("method", {}))
        moments = saved.groups.get("optimizer")  # none in the last checkpoint
        if moments is not None:
            load_adam_tensors(self.optimizer, self._parameter_names(), _ADAM_KEY, moments)
        for group in self.optimizer.param_groups:
            group["lr"] = saved.state["learning_rate"]
        self.history = [EpochRecord(**record) for record in saved.state["history"]]
        if len(self.history) < self.spec.schedule.epochs:
            here = provenance(str(self.device))
            add_resume(self.folder.path, here, epochs=len(self.history))

    def _parameter_names(self) -> list[str]:
        """Return the names of the parameters in the optimizer's checkpoints: their positions."""
        return [str(index) for index, _ in enumerate(self.model.parameters())]


def on_plateau(scores: Sequence[float], patience: int, threshold: float = 0.0) -> bool:
    """Return whether the last patience + 1 scores have not improved.

    This is the rule of PyTorch's ReduceLROnPlateau without cooldown: after each reduction it waits
    for patience + 1 further epochs.

    Args:
        scores: one for each epoch so far, lower is better, at least one.
        patience: epochs without improvement that are tolerated.
        threshold: part of the best score so far by which an improvement must exceed it, in [0, 1).
            (Of a negative best, a little less than it is one, too, as in PyTorch.)
    """
    if threshold:
        best, waited, reduced = math.inf, 0, False
        for score in scores:
            improved = score < best * (1 - threshold)
            best, waited = (score, 0) if improved else (best, waited + 1)
            reduced = waited > patience
            waited = 0 if reduced else waited
        return reduced
    waited = len(scores) - 1 - int(np.argmin(scores))
    return waited > 0 and waited % (patience + 1) == 0


def to_device(batch: Any, device: torch.device) -> Any:
    """Move the tensors of a batch, and whatever else has a method `to`, to the device."""
    if isinstance(batch, list | tuple):
        return tuple(to_device(part, device) for part in batch)
    if isinstance(batch, Mapping):
        return {key: to_device(part, device) for key, part in batch.items()}
    return batch.to(device, non_blocking=True) if hasattr(batch, "to") else batch
