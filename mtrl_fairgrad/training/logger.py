"""What a run shows while it goes: TensorBoard scalars, the progress bar, and a word when a solver
does not solve.
"""

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

from mtrl_fairgrad.runs.tensorboard_reader import REPLACED
from mtrl_fairgrad.runs.tensorboard_writer import EventFile

RESIDUAL_LIMIT = 0.1
"""Above this median relative residual FairGrad's equation cannot be called solved."""
RESIDUAL_WINDOW = 20
"""Log entries the median is taken over."""


def cosines(gramian: Tensor) -> Tensor:
    """Cosines between all pairs of different task gradients, `[..., K·(K−1)/2]`, from Gramians
    `[..., K, K]`.
    """
    norms = gramian.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(gramian.dtype).tiny).sqrt()
    cosine = gramian / (norms.unsqueeze(-1) * norms.unsqueeze(-2))
    row, column = torch.triu_indices(*gramian.shape[-2:], offset=1, device=gramian.device)
    return cosine[..., row, column].clamp(-1, 1)


class Tracker:
    """Writes a run's TensorBoard files and moves its progress bar.

    Args:
        folder: where the event files go.
        tasks: names, in the order of the task axis.
        steps: vector steps of the whole run.
        first_step: where this process begins.
        resumed: whether it goes on from a checkpoint there; entries a predecessor wrote beyond are
            dropped.
        progress: show the bar.
        alternative: what to advise when FairGrad's equation stays unsolved; `None`: say nothing.
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
    ) -> None:
        self._writer = EventFile(folder, purge_step=first_step + resumed)
        self._tasks = tuple(tasks)
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            disable=not progress,
            dynamic_ncols=True,
            smoothing=0.05,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,  # a log file wants lines, not frames
        )
        self._residuals: dict[str, deque[float]] = {}
        self._alternative = alternative
        self._shown: dict[str, str] = {}

    def advance(self) -> None:
        """One vector step is done."""
        self._bar.update()

    def say(self, text: str) -> None:
        """A line on the terminal, without breaking the bar."""
        tqdm.write(text)

    def show(self, **words: str) -> None:
        """Set words beside the bar, such as the last success rate; an empty one goes away."""
        self._shown = {key: word for key, word in {**self._shown, **words}.items() if word}
        self._bar.set_postfix(self._shown, refresh=False)

    def _per_task(self, tag: str, values: NDArray[np.floating], env_steps: int) -> None:
        for task, value in zip(self._tasks, values, strict=True):
            self._writer.add_scalar(f"{tag}/{task}", value, env_steps)

    def evaluation(
        self, success: NDArray[np.floating], returns: NDArray[np.floating], env_steps: int
    ) -> None:
        """Success rates and returns `[S, K]` of one evaluation."""
        per_seed = success.mean(axis=1)
        self._per_task("success", success.mean(axis=0), env_steps)
        self._per_task("return", returns.mean(axis=0), env_steps)
        self._writer.add_scalar("success_mean/mean", per_seed.mean(), env_steps)
        if len(per_seed) > 1:
            error = per_seed.std(ddof=1) / np.sqrt(len(per_seed))
            self._writer.add_scalar("success_mean/standard_error", error, env_steps)
        self.show(success=f"{per_seed.mean():.2f}")

    def episodes(
        self, success: NDArray[np.floating], returns: NDArray[np.floating], env_steps: int
    ) -> None:
        """Training episodes `[S, K]` that just ended; NaN where none did."""
        ended = ~np.isnan(returns).all(axis=0)
        for name, values in (("success", success), ("return", returns)):
            means = np.nanmean(values[:, ended], axis=0)
            for task, value in zip(np.flatnonzero(ended), means, strict=True):
                self._writer.add_scalar(f"train_{name}/{self._tasks[task]}", value, env_steps)

    def update(self, metrics: dict[str, Tensor], env_steps: int, updates_per_second: float) -> None:
        """Metrics of one update, means over seeds; `[S, K]` by task, others by their mean, Gramians
        as cosines.
        """
        self._writer.add_scalar("speed/updates_per_second", updates_per_second, env_steps)
        self.show(**{"updates/s": f"{updates_per_second:.0f}"})
        for name, value in metrics.items():
            if name.endswith("gramian"):
                self._gramian(name.removesuffix("gramian"), value, env_steps)
                continue
            mean = value.double().mean(0).cpu().numpy()
            if mean.shape == (len(self._tasks),):
                self._per_task(name, mean, env_steps)
            else:
                self._writer.add_scalar(name, float(mean.mean()), env_steps)
            if name.endswith("/residual"):
                self._watch(name.partition("/")[0], float(value.median()))

    def replaced(self, workers: int, env_steps: int) -> None:
        """How many simulator workers were lost and replaced so far."""
        self._writer.add_scalar(REPLACED, workers, env_steps)

    def _gramian(self, prefix: str, gramian: Tensor, env_steps: int) -> None:
        norms = gramian.diagonal(dim1=-2, dim2=-1).double().clamp_min(0).sqrt().mean(0)
        self._per_task(f"{prefix}task_gradient_norm", norms.cpu().numpy(), env_steps)
        if gramian.shape[-1] > 1:
            pairs = cosines(gramian.double())
            self._writer.add_scalar(f"{prefix}cosine/mean", float(pairs.mean()), env_steps)
            self._writer.add_scalar(
                f"{prefix}cosine/smallest", float(pairs.min(-1).values.mean()), env_steps
            )
            self._writer.add_scalar(
                f"{prefix}cosine/share_negative", float((pairs < 0).double().mean()), env_steps
            )

    def _watch(self, network: str, residual: float) -> None:
        """Say once when the median residual stays large."""
        recent = self._residuals.setdefault(network, deque(maxlen=RESIDUAL_WINDOW))
        recent.append(residual)
        if self._alternative is None or len(recent) < RESIDUAL_WINDOW:
            return
        median = statistics.median(recent)
        if median > RESIDUAL_LIMIT:
            self.say(
                f"note: the {network}'s FairGrad equation stays unsolved (median relative residual "
                f"{median:.2g} over the last {RESIDUAL_WINDOW} log entries, solved is below 1e-3); "
                f"{self._alternative}"
            )
            self._alternative = None

    def flush(self) -> None:
        """Have everything on disk, before a checkpoint says that it is."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the bar and the files."""
        self._bar.close()
        self._writer.close()
