"""S seeds × K tasks of a suite as one Gymnasium vector environment with worker processes."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from gymnasium.error import (
    AlreadyPendingCallError,
    ClosedEnvironmentError,
    NoAsyncCallError,
    ResetNeeded,
)
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from mtrl_fairgrad.envs.halves import half_rows, union
from mtrl_fairgrad.envs.rng import StreamTracker
from mtrl_fairgrad.envs.saved_state import fingerprint, save_results, saved_results, saved_rows
from mtrl_fairgrad.envs.suite import Suite
from mtrl_fairgrad.envs.workers.host import Slot
from mtrl_fairgrad.envs.workers.load_balancing import balance_load, worker_count
from mtrl_fairgrad.envs.workers.pool import (
    InProcessPool,
    LossHandler,
    WorkerError,
    WorkerLost,
    WorkerPool,
)
from mtrl_fairgrad.utils.validation import (
    ConfigError,
    check_choice,
    check_copies,
    check_integer,
    check_number,
    check_seeds,
)

Observations = NDArray[np.float32]
Infos = dict[str, Any]
Step = tuple[Observations, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]


class TaskVectorEnv(VectorEnv[Observations, NDArray[np.float32], NDArray[Any]]):
    """N = S·E·K sub-environments: E copies of a suite's K tasks for each of S seeds.

    That of seed s, copy e and task k has row (s·E + e)·K + k.

    Observations are float32 [N, O], the suite's one-hot identity included; actions float32 [N, A]
    in [−1, 1]. When an episode ends (terminated, or truncated at its time limit), the next one
    starts in the same step. `infos` then and always holds, one row each:

    - `success` bool [N]: this step counts as success;
    - `final_obs` float32 [N, O]: the true next observation, the ended episode's last one where
      `_final_obs` is set and the returned one elsewhere (bootstrap from it everywhere);
    - `episode`: `r` return float64, `l` steps int64, `s` any success bool, `r_until_success` and
      `l_until_success` return and steps up to the first success, each [N], valid where `_episode`
      is set;
    - `goal` int64 [N]: goal of the episode that the returned observation belongs to (Metaworld:
      which of the task's 50; Gymnasium: the reset's seed), −1 when idle;
    - `idle` bool [N]: no goal is left (see `reset`): this row's actions are ignored from now on.

    Each episode draws its goal from a stream that depends on nothing but seed, task, `role` and the
    number of the copy. With `stagger` the first episode of copy e after a reset is truncated after
    (e + 1)/E of its time limit.

    With `copies` E > 1, which must be even, the copies below E/2 and the others are two halves that
    can be stepped independently: `step_async`, `ready` and `step_wait` are of one `half`, with
    arrays of its N/2 rows; both halves may be running at once, and workers step them in the order
    of the calls. `step` is of all N rows. With E = 1 the only half is 0, of all rows.

    `workers` is the number of processes: 0 simulates in this one, None takes the cores, in training
    less one for the learner; never more than N. Wrong arguments raise ValueError. An exception in a
    sub-environment raises WorkerError, which closes all environments.

    A worker that dies, or takes longer than `timeout` seconds for a step (None: no limit), raises
    WorkerLost once; then `reset` replaces it and begins new episodes everywhere, with goals that
    follow those of the episodes so far. While the workers start, `on_lost` is called instead, and
    unless it raises another one is started.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        suite: Suite,
        seeds: Sequence[int],
        workers: int | None = None,
        role: str = "train",
        timeout: float | None = None,
        copies: int = 1,
        stagger: bool = False,
        on_lost: LossHandler | None = None,
    ) -> None:
        self._pool: InProcessPool | WorkerPool | None = None
        self.suite, self.tasks, self.seeds = suite, suite.tasks, check_seeds(seeds)
        self.role = check_choice("role", role, ("train", "eval"))
        self.copies = check_copies("copies", copies)
        self.half_rows = half_rows(len(self.seeds), copies, len(self.tasks))
        """Rows of each half."""
        self.num_envs = len(self.seeds) * copies * len(self.tasks)
        self.workers = min(worker_count(workers, role), self.num_envs)
        self._define_spaces()
        self._rows = [
            Slot(
                (s * copies + e) * len(self.tasks) + k,
                *(task, k, seed, e),
                half=int(2 * e >= copies > 1),
                first_share=(e + 1) / copies if stagger else 1.0,
            )
            for s, seed in enumerate(self.seeds)
            for e in range(copies)
            for k, task in enumerate(self.tasks)
        ]
        self._started = self._scheduled = False
        self._pending: set[int] = set()
        """Halves whose step is running, or has ended and was not taken by `step_wait`."""
        self._saved: set[int] = set()
        """Halves of these whose step's draws are part of the streams' known states."""
        self._streams = StreamTracker(self.num_envs)
        if self.workers:
            if timeout is not None:
                check_number("timeout", timeout, above=0, finite=False, hint="or None")
            shares = balance_load(self._rows, self.workers)
            self._pool = WorkerPool(shares, suite, role, timeout, on_lost)
        else:
            self._pool = InProcessPool(self._rows, suite, role)
        self._buffers = self._pool.buffers

    def _define_spaces(self) -> None:
        low = np.full(self.suite.observation_size, -np.inf, np.float32)
        high = -low
        low[self.suite.base_observation_size :], high[self.suite.base_observation_size :] = 0.0, 1.0
        self.single_observation_space = Box(low, high, dtype=np.float32)
        self.single_action_space = Box(-1.0, 1.0, (self.suite.action_size,), np.float32)
        rows = (self.num_envs, 1)
        self.observation_space = Box(np.tile(low, rows), np.tile(high, rows), dtype=np.float32)
        self.action_space = Box(-1.0, 1.0, (self.num_envs, self.suite.action_size), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, Infos]:
        """Start a new episode everywhere; `infos` holds `goal` and `idle`.

        With `options={"goals": int [N, E]}` (role `eval` only) each sub-environment plays exactly
        these goals in order, one an episode, and then idles: nothing is simulated, its reward is 0,
        its observation stays the last one. Random streams continue; `seed` is rejected because
        `seeds` at construction determine everything.
        """
        if seed is not None:
            raise ValueError(
                f"reset(seed={seed}) would change nothing: give seeds=[{seed}] when making the "
                "environment."
            )
        unknown = set(options or {}) - {"goals"}
        if unknown:
            raise ValueError(f"reset has no option {min(unknown)!r}: it takes goals.")
        goals = (options or {}).get("goals")
        if goals is not None and self.role != "eval":
            raise ValueError(
                "role='train' draws its goals itself: make an environment with role='eval' to "
                "choose them."
            )
        plan = None
        if goals is not None:
            plan = dict(enumerate(_checked_goals(goals, self.num_envs, self.suite.goal_count)))
        self._refill()
        self._command("reset", plan)
        self._started, self._scheduled = True, goals is not None
        everything = np.arange(self.num_envs)
        self._streams.count_draws(everything, not self._scheduled)
        return self._buffers.observations.copy(), self._position(everything)

    def step(self, actions: NDArray[np.floating[Any]]) -> Step:
        """Step all rows: call `step_async` and `step_wait` of each half."""
        array = self._checked(actions, np.arange(self.num_envs))
        for half, rows in enumerate(self.half_rows):
            self.step_async(array[rows], half)
        return union([self.step_wait(half) for half in range(len(self.half_rows))], self.half_rows)

    def step_async(self, actions: NDArray[np.floating[Any]], half: int = 0) -> None:
        """Start simulating one step of a half with its `actions` (finite), without waiting.

        Args:
            actions: [N, A]; with copies [S·(E/2)·K, A].
            half: 0 or 1.

        Raises:
            ValueError: another shape, or a non-finite action.
            AlreadyPendingCallError: a step of this half is running.
            ResetNeeded: before the first reset.
        """
        pool = self._open_pool("step_async")
        if half in self._pending:
            raise _pending_error("step_async")
        rows = self.half_rows[half]
        self._buffers.actions[rows] = self._checked(actions, rows)
        self._guarded(lambda: pool.start("step", half))
        self._pending.add(half)

    def ready(self, timeout: float = 0.0, half: int = 0) -> bool:
        """Return whether the running step of a half ends within `timeout` seconds.

        True without workers, without a running step and when closed.

        Raises:
            WorkerError: the step failed.
        """
        pool = self._pool
        if half not in self._pending or pool is None:
            return True
        return self._guarded(lambda: pool.ready(timeout, half))

    def step_wait(self, half: int = 0) -> Step:
        """Wait for the step of a half; return copies of its results.

        Returns:
            Observations, rewards, terminated, truncated, infos.

        Raises:
            NoAsyncCallError: no step of this half is running.
            WorkerError: the step failed.
        """
        pool = self._pool
        if half not in self._pending or pool is None:
            raise NoAsyncCallError(
                "step_wait without a running step: call step_async first.", "step"
            )
        self._guarded(lambda: pool.finish(half))
        self._pending.remove(half)
        buffers, rows = self._buffers, self.half_rows[half]
        observations = buffers.observations[rows]
        terminated, truncated = buffers.terminated[rows], buffers.truncated[rows]
        ended = terminated | truncated
        if half not in self._saved:
            self._streams.count_draws(rows, ended & (not self._scheduled))
        self._saved.discard(half)
        final = np.where(ended[:, None], buffers.final_observations[rows], observations)
        episode = {
            "r": buffers.returns[rows],
            "l": buffers.lengths[rows],
            "s": buffers.successes[rows],
            "r_until_success": buffers.returns_until_success[rows],
            "l_until_success": buffers.lengths_until_success[rows],
        }
        infos = {
            "success": buffers.success[rows],
            "final_obs": final,
            "_final_obs": ended,
            **self._position(rows),
        }
        infos |= {"episode": episode, "_episode": ended}
        return observations, buffers.rewards[rows], terminated, truncated, infos

    def restart_streams(self) -> None:
        """Draw goals as new environments do, from the next reset on."""
        self._streams = StreamTracker(self.num_envs)
        self._command("place", self._streams.positions())

    def pause(self, rows: Sequence[int]) -> None:
        """Leave these rows, and no others, as they are in later steps, which give them reward 0."""
        self._command("pause", frozenset(rows))

    @property
    def resumable(self) -> bool:
        """Whether `get_state` is allowed: training episodes are running."""
        return self._started and not self._scheduled

    @property
    def largest_state(self) -> int:
        """Upper bound of the bytes that a checkpoint of the state and the running steps takes."""
        suite = self.suite
        steps = max(map(suite.horizon_of, self.tasks))
        return self.num_envs * (4 * suite.action_size * steps + 16 * suite.observation_size + 512)

    def get_state(self) -> dict[str, Any]:
        """Return all that later steps depend on: plain values, and numbers as bytes.

        `mtrl_fairgrad.envs.saved_state.to_arrays` prepares it for a file.

        Running steps are waited for; their results are part of the state and stay to be taken.

        Raises:
            RuntimeError: not `resumable`.
        """
        if not self.resumable:
            raise RuntimeError("get_state before reset or with chosen goals: see resumable.")
        states = self._command("get_state")
        rows = [states[row.index] for row in self._rows]
        self._streams.record_states(rows)
        self._saved = set(self._pending)
        results = {
            str(half): save_results(self._buffers, self.half_rows[half])
            for half in sorted(self._pending)
        }
        return {"made": fingerprint(self), "rows": rows, "results": results}

    def set_state(self, state: dict[str, Any]) -> Observations:
        """Continue bit for bit from `get_state`, with any number of workers; observations [N, O].

        Steps that were running then have ended and are still to be taken.

        Raises:
            ValueError: the state is damaged, of other tasks, seeds, settings or versions, or not
                reproduced.
        """
        rows = saved_rows(state, fingerprint(self), self.num_envs, self.suite)
        results = saved_results(state, self._buffers, self.half_rows)
        self._refill()
        not_reproduced = self._command("set_state", dict(enumerate(rows)))
        if not_reproduced:
            raise ValueError(
                f"{self._rows[min(not_reproduced)]} is not reproducible: the same reset seed and "
                "actions led elsewhere than when the checkpoint was made, so that the run cannot "
                "be continued exactly; evaluate it as it is, or start a new one with simulators "
                "that depend on nothing else."
            )
        self._started, self._scheduled = True, False
        self._streams.record_states(rows)
        for half, arrays in results.items():
            for name, array in arrays.items():
                getattr(self._buffers, name)[self.half_rows[half]] = array
        self._pending, self._saved = set(results), set(results)
        return self._buffers.observations.copy()

    def rebalance(self) -> int:
        """Move sub-environments between workers if their measured step times say that it pays.

        What steps return does not depend on it; results of running steps stay to be taken. Nothing
        is moved if the suite has a task that does not repeat its episodes.

        Returns:
            how many were moved.

        Raises:
            WorkerError: a sub-environment raised or a worker was lost.
        """
        if not self.resumable or not self.suite.repeats:
            return 0
        pool, self._started = self._open_pool("rebalance"), False  # until it is done
        moved = self._guarded(pool.rebalance)
        self._started = True
        return moved

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the workers, with `grace=0` at once; Gymnasium's `close` calls this once."""
        if self._pool is not None:
            self._pool.close(**kwargs)
            self._pool = None

    def __enter__(self) -> Self:
        """Return self; the environment is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the environment."""
        self.close()

    def _checked(self, actions: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return the actions of some rows as float32; errors as in `step_async`."""
        self._open_pool("step_async")
        if not self._started:
            raise ResetNeeded("step_async before the first reset: call reset first.")
        array = np.asarray(actions, np.float32)
        if array.shape != (len(rows), self.suite.action_size):
            raise ValueError(
                f"actions of shape {list(array.shape)} do not fit: give "
                f"[{len(rows)}, {self.suite.action_size}], one row per sub-environment."
            )
        if not np.isfinite(array).all():
            position = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise ValueError(
                f"the action {array[position].tolist()} for {self._rows[rows[position]]} is not "
                "finite: the policy has diverged."
            )
        return array

    def _open_pool(self, name: str) -> InProcessPool | WorkerPool:
        """Return the pool; Gymnasium's error if closed."""
        if self._pool is None:
            raise ClosedEnvironmentError(f"{name} on closed environments: make new ones.")
        return self._pool

    def _idle_pool(self, name: str) -> InProcessPool | WorkerPool:
        """Return the pool; Gymnasium's errors if closed or if a step is running."""
        pool = self._open_pool(name)
        if self._pending:
            raise _pending_error(name)
        return pool

    def _command(self, name: str, payload: Any = None) -> dict[int, Any]:
        """Run a command after the running steps, whose results stay to be taken."""
        pool = self._open_pool(name)
        self._guarded(lambda: pool.start(name, payload))
        return self._guarded(pool.finish)

    def _refill(self) -> None:
        """Replace lost workers and restore all streams to their last known state."""
        if self._guarded(self._idle_pool("reset").replace):
            self._command("place", self._streams.positions())

    def _guarded(self, action: Callable[[], Any]) -> Any:
        """Call `action`. After a lost worker all episodes end; after another error, close."""
        try:
            return action()
        except WorkerError as error:
            self._started = False
            self._pending.clear()
            self._saved.clear()
            if not isinstance(error, WorkerLost):
                self.close()
            raise

    def _position(self, rows: NDArray[np.intp]) -> Infos:
        goals = self._buffers.goals[rows]
        return {"goal": goals, "idle": goals < 0}


def _pending_error(name: str) -> AlreadyPendingCallError:
    return AlreadyPendingCallError(f"{name} while a step is running: call step_wait first.", "step")


def _checked_goals(goals: Any, rows: int, count: int) -> list[list[int]]:
    """Return goals [rows][E] for E ≥ 1, each from 0 to `count` − 1.

    Raises:
        ConfigError: another type, shape or range.
    """
    array = np.asarray(goals)
    integers = np.issubdtype(array.dtype, np.integer)
    if array.ndim != 2 or array.shape[0] != rows or array.shape[1] == 0 or not integers:
        raise ConfigError(
            f"goals of dtype {array.dtype} and shape {list(array.shape)} are not allowed: give "
            f"integers [{rows}, E], the goals of each sub-environment in order, at least one.",
            "goals",
            goals,
        )
    for goal in (array.min(), array.max()):
        check_integer("goals", int(goal), at_most=count - 1)
    return array.tolist()
