"""Logging of a run: messages, progress bar, metrics.csv and the backends of `logger=`."""

from __future__ import annotations

import statistics
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from mtrl_fairgrad.config.schema import Config
from mtrl_fairgrad.runs.metric_entries import WORKERS_REPLACED
from mtrl_fairgrad.runs.metrics_log import MetricsLog
from mtrl_fairgrad.training.log_backends import make_backends
from mtrl_fairgrad.training.run_description import seed_tag
from mtrl_fairgrad.utils.clean_text import clean

RESIDUAL_LIMIT = 0.1
"""Median relative residual above which FairGrad's equation counts as unsolved."""
RESIDUAL_WINDOW = 20
"""Number of log entries the median is taken over."""


def cosines(gramian: Tensor) -> Tensor:
    """Return the cosines between all pairs of task gradients; 0 where a gradient vanishes.

    Args:
        gramian: `[..., K, K]`.

    Returns:
        `[..., K·(K−1)/2]`.
    """
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(gramian.dtype).tiny).sqrt()
    cosine = gramian / (norms.unsqueeze(-1) * norms.unsqueeze(-2))
    row, column = torch.triu_indices(*gramian.shape[-2:], offset=1, device=gramian.device)
    return cosine[..., row, column].clamp(-1, 1)


class Logger:
    """Prints messages, moves the progress bar, and writes metrics.csv and to the backends.

    Args:
        folder: the run folder.
        tasks: names, in the order of the task axis.
        steps: training steps of the whole run.
        first_step: the step at which this process starts.
        resumed: whether it starts from a checkpoint; TensorBoard then hides what an earlier process
            wrote beyond `first_step`.
        progress: show the progress bar.
        alternative: the advice given once if FairGrad's equation stays unsolved; None for no note.
        seeds: the run's seeds; several have curves of their own in the backends.
        backends: names of `Config.logger`, checked.

    Raises:
        ConfigError: a backend refuses to start.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[str],
        steps: int,
        first_step: int,
        resumed: bool,
        progress: bool,
        alternative: str | None,
        seeds: Sequence[int] = (),
        backends: Sequence[str] = ("tensorboard",),
    ) -> None:
        self._metrics = MetricsLog(folder)
        self._backends = make_backends(backends, folder, first_step + resumed, self.log)
        self._tasks, self._seeds = tuple(tasks), tuple(seeds)
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            disable=not progress,
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # rarely in a log file
        )
        self._residuals: dict[str, deque[float]] = {}
        self._alternative = alternative
        self._shown: dict[str, str] = {}

    def describe(self, config: Config, env_steps: int) -> None:
        """Give the configuration to the backends, once a process."""
        for backend in self._backends:
            backend.describe(config, env_steps)

    def advance(self, steps: int) -> None:
        """Move the progress bar."""
        self._bar.update(steps)

    def log(self, text: str) -> None:
        """Print lines without breaking the progress bar."""
        tqdm.write("\n".join(map(clean, text.split("\n"))))

    def show(self, **values: str) -> None:
        """Set values that are shown after the progress bar; an empty one is removed."""
        self._shown = {key: value for key, value in {**self._shown, **values}.items() if value}
        self._bar.set_postfix(self._shown, refresh=False)

    def _add_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Log a value for reports and for the backends."""
        self._metrics.add(name, value, env_steps)
        self._show_scalar(name, value, env_steps)

    def _show_scalar(self, name: str, value: float, env_steps: int) -> None:
        """Log a value for the backends alone."""
        for backend in self._backends:
            backend.add_scalar(name, value, env_steps)

    def _per_task(self, tag: str, values: NDArray[np.floating], env_steps: int) -> None:
        for task, value in zip(self._tasks, values, strict=True):
            self._add_scalar(f"{tag}/{task}", value, env_steps)

    def _per_seed(self, name: str, values: NDArray[np.floating], env_steps: int) -> None:
        """Log values `[S, ...]` of several seeds as one mean each, for the backends alone."""
        if len(self._seeds) > 1:
            means = values.reshape(len(self._seeds), -1).mean(axis=1)
            for seed, value in zip(self._seeds, means, strict=True):
                self._show_scalar(seed_tag(seed, name), float(value), env_steps)

    def log_evaluation(
        self,
        success: NDArray[np.floating],
        returns: NDArray[np.floating],
        until_success: NDArray[np.floating],
        env_steps: int,
    ) -> None:
        """Log success rates and returns `[S, K]` of an evaluation.

        Args:
            success: success rates.
            returns: of whole episodes; not finite where they are unknown.
            until_success: returns up to the first success.
            env_steps: transitions of each task so far.
        """
        per_seed = success.mean(axis=1)
        self._per_seed("success_mean", success, env_steps)
        for k, task in enumerate(self._tasks):
            self._per_seed(f"success/{task}", success[:, k], env_steps)
        self._per_task("success", success.mean(axis=0), env_steps)
        for tag, values in (("return", returns), ("return_until_success", until_success)):
            for task, value in zip(self._tasks, values.mean(axis=0), strict=True):
                if np.isfinite(value):
                    self._add_scalar(f"{tag}/{task}", value, env_steps)
            if np.isfinite(values).all():
                self._per_seed(tag, values, env_steps)
        self._add_scalar("success_mean/mean", per_seed.mean(), env_steps)
        if len(per_seed) > 1:
            error = per_seed.std(ddof=1) / np.sqrt(len(per_seed))
            self._add_scalar("success_mean/standard_error", error, env_steps)
        self.show(success=f"{per_seed.mean():.2f}")

    def log_episodes(
        self, success: NDArray[np.floating], returns: NDArray[np.floating], env_steps: int
    ) -> None:
        """Log success and return `[S, K]` of training episodes that just ended; NaN elsewhere.

        A return that is not finite counts as that of no episode.
        """
        returns = np.where(np.isfinite(returns), returns, np.nan)
        ended = ~np.isnan(returns).all(axis=0)
        for name, values in (("success", success), ("return", returns)):
            means = np.nanmean(values[:, ended], axis=0)
            for task, value in zip(np.flatnonzero(ended), means, strict=True):
                self._add_scalar(f"train_{name}/{self._tasks[task]}", value, env_steps)

    def log_update(
        self, metrics: dict[str, Tensor], env_steps: int, updates_per_second: float
    ) -> None:
        """Log an update's metrics as means over seeds, and those of each seed.

        `[S, K]` is logged by task, a Gramian as norms and cosines, anything else as one mean.
        """
        self._add_scalar("speed/updates_per_second", updates_per_second, env_steps)
        self.show(**{"updates/s": f"{updates_per_second:.0f}"})
        for name, value in metrics.items():
            if name.endswith("gramian"):
                self._log_gramian(name.removesuffix("gramian"), value, env_steps)
                continue
            of_seeds = value.double().cpu().numpy()
            mean = of_seeds.mean(0)
            self._per_seed(name, of_seeds, env_steps)
            if mean.shape == (len(self._tasks),):
                self._per_task(name, mean, env_steps)
            else:
                self._add_scalar(name, float(mean.mean()), env_steps)
            if name.endswith("/residual"):
                self._check_residual(name.partition("/")[0], float(value.median()))

    def log_speed(self, env_steps_per_second: float, env_steps: int) -> None:
        """Log the training steps per second, without evaluations, for the backends alone."""
        self._show_scalar("speed/env_steps_per_second", env_steps_per_second, env_steps)

    def log_worker_restarts(self, workers: int, env_steps: int) -> None:
        """Log the number of simulator workers replaced so far."""
        self._add_scalar(WORKERS_REPLACED, workers, env_steps)

    def _log_gramian(self, prefix: str, gramian: Tensor, env_steps: int) -> None:
        norms = gramian.diagonal(dim1=-2, dim2=-1).double().clamp_min(0).sqrt().mean(0)
        self._per_task(f"{prefix}task_gradient_norm", norms.cpu().numpy(), env_steps)
        if gramian.shape[-1] > 1:
            pairs = cosines(gramian.double())
            self._add_scalar(f"{prefix}cosine/mean", float(pairs.mean()), env_steps)
            self._add_scalar(
                f"{prefix}cosine/smallest", float(pairs.min(-1).values.mean()), env_steps
            )
            self._add_scalar(
                f"{prefix}cosine/share_negative", float((pairs < 0).double().mean()), env_steps
            )

    def _check_residual(self, network: str, residual: float) -> None:
        """Print a note once the median residual stays large."""
        recent = self._residuals.setdefault(network, deque(maxlen=RESIDUAL_WINDOW))
        recent.append(residual)
        if self._alternative is None or len(recent) < RESIDUAL_WINDOW:
            return
        median = statistics.median(recent)
        if median > RESIDUAL_LIMIT:
            self.log(
                f"note: the {network}'s FairGrad equation stays unsolved (median relative residual "
                f"{median:.2g} over the last {RESIDUAL_WINDOW} log entries, "
                f"solved is below 1e-3); {self._alternative}"
            )
            self._alternative = None

    def flush(self) -> None:
        """Write everything to disk; required before a checkpoint refers to it."""
        self._metrics.flush()
        for backend in self._backends:
            backend.flush()

    def close(self) -> None:
        """Close the progress bar and the files."""
        self._bar.close()
        self._metrics.close()
        for backend in self._backends:
            backend.close()
