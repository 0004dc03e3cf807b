"""The typed configuration: one dataclass per group, one line of documentation per field, and
`validate`.

The YAML files under `configs/` compose to exactly these defaults (a test says so); `preset=` and
the command line change them. Mistakes end here, before anything starts, in one sentence; most of
them before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.config.agent import AgentConfig, check_agent
from mtrl_fairgrad.config.env import EnvConfig, EvalConfig, check_env
from mtrl_fairgrad.config.groups import choices
from mtrl_fairgrad.config.guard import GuardConfig, check_guard
from mtrl_fairgrad.utils.validation import ConfigError, check_device, one_of, within

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema")


@dataclass
class ConventionConfig:
    """How the answer of the method becomes gradients; see `mtrl_fairgrad.gradients.conventions`."""

    name: str = "plain"
    """plain, official_supervised or libmtl; stands in reports."""
    own: str = "plain"
    """Own parameters of a task (heads): plain, weighted or weighted_losses."""
    scale: str = "none"
    """none, or tasks: the combined direction times K."""
    max_norm: float | None = None
    """Longest combined direction of each network, before agent.max_gradient_norm; null: any."""


@dataclass
class Config:
    """A whole run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    method: dict[str, Any] = field(default_factory=lambda: choices("method")["fairgrad"])
    """`name` and the method's own options; one that needs positive losses serves the critics, ls
    the actor.
    """
    convention: ConventionConfig = field(default_factory=ConventionConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    preset: str = "none"
    """Name of the preset that changed the defaults, for the record."""
    alpha: float | None = None
    """Fairness of FairGrad, α ≥ 0; short for method.alpha."""
    loss_alpha: float | None = None
    """α-fair transformation of the critics' losses, l^(1−α)/(1−α), α < 1; null: none."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Trained side by side in one process; each is a run of its own."""
    steps: int = 2_000_000
    """Vector steps: transitions of each task."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """Learner threads on CPU; null: PyTorch's choice."""
    deterministic: bool = False
    """On a GPU, use only kernels that repeat themselves bit for bit, so that resuming does; a CPU's
    always do.
    """
    compile: bool = False
    """Hand the task gradients to torch.compile, which takes a C++ compiler, or on a GPU Triton, and
    some seconds.
    """
    cuda_graph: bool = False
    """Replay updates from a CUDA graph; not yet tried on a GPU."""
    updates_per_launch: int = 1
    """Updates replayed by one call, where at least as many are due."""
    run_dir: str | None = None
    """Folder of this run; null: runs/<env>-<method>-<time>, in a sweep hydra.sweep.dir/<words of
    the run>.
    """
    resume: str | None = None
    """Folder of a run to continue; auto: the one in run_dir if there is any."""
    log_every: int = 500
    """Vector steps between TensorBoard entries."""
    grace_seconds: float = 60.0
    """After Ctrl-C, SIGTERM, SIGUSR1 or SIGUSR2, how long to go on to the next boundary for a
    checkpoint.
    """
    progress: bool = True
    """Show the progress bar."""


RESUMABLE = frozenset(
    {"steps", "env.fast", "env.workers", "env.worker_timeout", "env.worker_restarts"}
    | {"eval.workers", "eval.background", "resume", "grace_seconds", "progress"}
)
"""What may differ when a run is resumed: it changes how long and how fast the run goes, never its
course.
"""


def from_hydra(composed: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """The typed and validated configuration of what Hydra composed.

    Args:
        composed: the whole configuration.
        overrides: the command line, to tell a value that was asked for from a default.

    Raises:
        ConfigError: anything unknown, of the wrong type, out of range or contradictory.
    """
    config = without_torch(composed, overrides)
    check_parts(config)
    return config


def without_torch(composed: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """What `from_hydra` finds out without PyTorch; what is left, `check_parts` does."""
    config = typed(Config(method={}), composed)
    if config.agent.name == "mtsac" and config.method.get("name") == "stl":
        config.agent.name = "stl"  # method=stl is another word for it
    if config.agent.name == "stl" and not any(
        override.startswith("agent.temperature=") for override in overrides
    ):
        config.agent.temperature = (
            "per_task"  # a protocol may have one for all, which agents of their own cannot share
        )
    resolve_alpha(config, asked=any(override.startswith("method.alpha=") for override in overrides))
    validate(config)
    return config


def from_stored(stored: dict[str, Any], path: Path) -> Config:
    """The configuration that a run's folder or an exported policy holds, as `without_torch` checks
    it.

    Args:
        stored: the plain values that `read_mapping` found there; a stranger may have written them.
        path: the file, for the message.

    Raises:
        ConfigError: anything that a run does not store.
    """
    try:
        if "${" in json.dumps(stored):
            raise ConfigError(
                "interpolations would look at this machine, and training stores none: take them "
                "out."
            )
        return without_torch(OmegaConf.create(stored))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def check_parts(config: Config) -> None:
    """Refuse options of the method and of the convention that these do not allow, by making them.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    check_method(config.method, config.loss_alpha)
    check_convention(config.convention)


def typed(defaults: Schema, composed: DictConfig) -> Schema:
    """What Hydra composed, as an instance of the dataclass of `defaults`.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    try:
        return cast(
            Schema, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(defaults), composed))
        )
    except OverflowError:
        raise ConfigError(
            "a number of the configuration is too large to be read: give one below 1e300."
        ) from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        where = error.full_key or "the configuration"
        raise ConfigError(f"{where}: {reason}; see configs/ for what is allowed.") from None


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Plain nested dictionaries, as written to config.yaml."""
    return asdict(config)


class WithMethod(Protocol):
    """A configuration with a method and the shorthand for its fairness."""

    method: dict[str, Any]
    alpha: float | None


def resolve_alpha(config: WithMethod, asked: bool = False) -> None:
    """Move the top-level `alpha` into the method it belongs to; `asked`: method.alpha was given,
    too.
    """
    if config.alpha is None:
        return
    name = config.method.get("name")
    if "alpha" not in config.method:
        owners = " or ".join(
            f"method={owner}" for owner, options in choices("method").items() if "alpha" in options
        )
        raise ConfigError(
            f"alpha={config.alpha:g} was given but method={name} has no alpha: drop it, or choose "
            f"{owners}."
        )
    if asked and config.method["alpha"] != config.alpha:
        raise ConfigError(
            f"alpha={config.alpha:g} and method.alpha={config.method['alpha']} disagree: give only "
            "one of them."
        )
    config.method["alpha"] = config.alpha


def validate(config: Config) -> None:
    """Check everything that can be checked without PyTorch.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    check_env(config.env, config.eval)
    within("steps", config.steps, 1)
    within("log_every", config.log_every, 1)
    if config.threads is not None:
        within("threads", config.threads, 1, 1024)
    within("updates_per_launch", config.updates_per_launch, 1)
    if not config.grace_seconds >= 0:
        raise ConfigError(f"grace_seconds={config.grace_seconds} is negative: give seconds ≥ 0.")
    check_seeds(config.seeds)
    check_device(config.device)
    check_agent(config.agent)
    check_guard(config.guard)
    one_of("method", str(config.method.get("name")), choices("method"))
    _check_single_task(config)


def check_seeds(seeds: list[int]) -> None:
    """Refuse seeds that are none, repeated or out of range."""
    if not seeds:
        raise ConfigError("seeds=[] trains nothing: give at least one seed, such as seeds=[0].")
    for seed in seeds:
        within("seeds", seed, 0, 2**31 - 1)
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ConfigError(
            f"seeds={seeds} names {twice[0]} twice: each seed is one run, so give different ones."
        )


def check_method(method: dict[str, Any], loss_alpha: float | None) -> None:
    """Refuse a method, options or a loss transformation that cannot be made."""
    from mtrl_fairgrad.weighting import make_method
    from mtrl_fairgrad.weighting.alpha_fair import alpha_fair

    given = dict(method)
    name = str(given.pop("name", None))
    try:
        made = make_method(name, **given)
        if loss_alpha is not None:
            alpha_fair(made, loss_alpha)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_single_task(config: Config) -> None:
    agent, method, loss_alpha = config.agent.name, config.method, config.loss_alpha
    if agent == "stl" and method["name"] != "stl":
        raise ConfigError(
            "agent=stl trains each task by an agent of its own, whose gradients "
            f"method={method['name']} cannot "
            "combine: drop one of them."
        )
    if method["name"] != "stl":
        return
    if agent != "stl":
        raise ConfigError(
            f"agent={agent} trains tasks together but method=stl trains each alone: drop one of "
            "them."
        )
    usual = choices("method")["stl"]["task"]
    if method.get("task", usual) != usual:
        raise ConfigError(
            f"method.task={method['task']} is for supervised learning: here method=stl trains "
            "every task by an agent of its own, so drop it, and choose tasks with env.tasks=[…]."
        )
    if loss_alpha is not None:
        raise ConfigError(
            f"loss_alpha={loss_alpha:g} is fairness between tasks but method=stl trains each "
            "alone: give only one."
        )


def check_convention(chosen: ConventionConfig) -> None:
    """Refuse unknown words, and a preset's name on something else."""
    from mtrl_fairgrad.gradients.conventions import CONVENTIONS, Convention

    try:
        meant = Convention(chosen.own, chosen.scale, chosen.max_norm)
    except ValueError as error:
        raise ConfigError(f"convention.{error}") from None
    if CONVENTIONS.get(chosen.name, meant) != meant:
        raise ConfigError(
            f"convention.own={chosen.own}, scale={chosen.scale}, max_norm={chosen.max_norm} would "
            "be reported as "
            f"{chosen.name}, which is something else: give it a name of your own, such as "
            "convention.name=mine."
        )


def changed_keys(
    before: dict[str, Any], after: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Dotted keys whose values differ between two plain configurations, with both values, in order."""
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(before.keys() | after.keys()):
        name, old, new = f"{prefix}{key}", before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changed_keys(cast(dict[str, Any], old), cast(dict[str, Any], new), f"{name}.")
        elif old != new:
            found.append((name, cast(Any, old), cast(Any, new)))
    return found
