"""Typed configuration of a training run: one dataclass per group, and `validate`.

The YAML files under `configs/` compose to exactly these defaults (a test checks it); presets and
the command line change them. Mistakes raise `ConfigError` before anything starts, most of them
before PyTorch is imported, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtrl_fairgrad.config.agent import AgentConfig, check_agent
from mtrl_fairgrad.config.coercion import coerce_fields
from mtrl_fairgrad.config.convention import ConventionConfig, check_convention
from mtrl_fairgrad.config.env import EnvConfig, EvalConfig, check_env
from mtrl_fairgrad.config.execution import PRECISIONS, SWITCH
from mtrl_fairgrad.config.groups import config_group
from mtrl_fairgrad.config.guard import GuardConfig
from mtrl_fairgrad.config.networks import BUILT_IN
from mtrl_fairgrad.config.older_runs import RETYPED, complete, missing_options
from mtrl_fairgrad.utils.validation import (
    MAX_WORKERS,
    ConfigError,
    check_choice,
    check_device,
    check_seeds,
    option,
    validate_fields,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from mtrl_fairgrad.weighting import Method

Schema = TypeVar("Schema")

LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")


@dataclass
class Config:
    """Configuration of a training run."""

    env: EnvConfig = field(default_factory=EnvConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    method: dict[str, Any] = option(
        factory=lambda: config_group("method")["fairgrad"],
        help="The method's name and its own options. A method that needs positive losses is used "
        "for the critics only; the actor then uses ls.",
    )
    convention: ConventionConfig = field(default_factory=ConventionConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    preset: str = option("none", "Name of the preset that changed the defaults, for the record.")
    alpha: float | None = option(
        None,
        "Fairness of FairGrad, α ≥ 0, short for method.alpha. 0: LS, 1: proportional, 2: minimum "
        "potential delay, large: max-min.",
    )
    loss_alpha: float | None = option(
        None,
        "α-fair transformation of the critics' losses, l^(1−α)/(1−α) with α < 1, "
        "for any method; null: none.",
    )
    seeds: list[int] = option(
        factory=lambda: [0],
        help="Seeds trained together in one process; each is a run of its own.",
    )
    steps: int = option(
        2_000_000,
        "Transitions of each task, by all its simulators: a vector step adds env.copies.",
        at_least=1,
        unit="env_steps",
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    threads: int | None = option(
        None,
        "The learner's threads on CPU; null: PyTorch's default.",
        at_least=1,
        at_most=MAX_WORKERS,
    )
    deterministic: bool = option(
        False,
        "On a GPU, use only deterministic kernels, so that resuming is bit-exact; "
        "on CPU it always is.",
    )
    compile: str = option(
        "auto",
        "Compile the task gradients with torch.compile. auto: on a GPU with Triton and a C "
        "compiler; on a CPU it gains little.",
        choices=SWITCH,
    )
    cuda_graph: str = option(
        "auto",
        "Replay updates and acting from CUDA graphs, split where a method computes on the CPU. "
        "auto: on a GPU; an update that cannot be captured is then made eagerly.",
        choices=SWITCH,
    )
    precision: str = option(
        "fp32",
        "Matrix products of the networks in training: fp32, tf32 on a GPU, or bf16 between hidden "
        "layers. Parameters, Gramians, solvers and optimiser keep their precision.",
        choices=PRECISIONS,
    )
    updates_per_launch: int = option(
        1, "Updates replayed by one call, where at least as many are due.", at_least=1
    )
    run_dir: str | None = option(
        None,
        "Run folder; null: runs/<env>-<method>-<time>, in a sweep a folder named after the "
        "overrides below hydra.sweep.dir.",
    )
    resume: str | None = option(
        None,
        "Run folder to resume; auto: the one in run_dir if it exists, the default in a sweep.",
    )
    log_every: int = option(
        500,
        "Transitions of each task between log entries.",
        at_least=1,
        unit="env_steps",
    )
    logger: list[str] = option(
        factory=lambda: ["tensorboard"],
        help="Where the scalars of the log go, one or several; csv: scalars.csv in the run folder. "
        "What reports read is in metrics.csv in any case.",
        choices=LOGGERS,
    )
    progress: bool = option(True, "Show the progress bar.")


RESUMABLE = frozenset(
    {"steps", "env.fast", "env.workers", "env.worker_timeout", "env.worker_restarts"}
    | {"eval.workers", "eval.background", "resume", "logger", "progress"}
)
"""Options that may change on resume: they affect length and speed of a run, not its course."""


def from_hydra(composed: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """Convert what Hydra composed into a validated `Config`.

    Args:
        composed: the whole configuration.
        overrides: the command line; its values are requested, all others are defaults.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range or a contradiction.
    """
    config = without_torch(composed, overrides)
    check_parts(config)
    return config


def without_torch(composed: DictConfig, overrides: Sequence[str] = ()) -> Config:
    """Convert like `from_hydra`, but without `check_parts`, which imports PyTorch."""
    config = typed(Config(method={}), composed)
    if config.agent.name == "mtsac" and config.method.get("name") == "stl":
        config.agent.name = "stl"  # method=stl implies agent=stl
    options: Any = config.env.task_options
    config.env.task_options = [options] if isinstance(options, dict) else options
    if config.agent.name == "stl" and not is_given("agent.temperature", overrides):
        # A protocol may set `shared`, which is impossible with an agent per task.
        config.agent.temperature = "per_task"
    resolve_alpha(config, method_alpha_given=is_given("method.alpha", overrides))
    validate(config)
    return config


def from_stored(stored: dict[str, Any], path: Path) -> Config:
    """Convert the configuration stored in a run folder or an exported policy, as `without_torch`.

    Args:
        stored: plain values as `read_mapping` returns them; untrusted.
        path: the file, for messages.

    Raises:
        ConfigError: anything that a run does not store.
    """
    try:
        return without_torch(without_interpolations(complete(stored)))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def without_interpolations(stored: dict[str, Any]) -> DictConfig:
    """Convert an untrusted configuration to one of Hydra.

    Raises:
        ConfigError: it contains interpolations.
    """
    if "${" in json.dumps(stored):
        raise ConfigError(
            "it contains interpolations, which could read data of this machine and which "
            "training never stores: remove them."
        )
    return OmegaConf.create(stored)


def check_parts(config: Config) -> None:
    """Check the options of method and convention by constructing them; imports PyTorch.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    method = check_method(config.method, config.loss_alpha)
    if method.splits_batch and config.agent.batch_size % 2:
        raise ConfigError(
            f"agent.batch_size={config.agent.batch_size} has no halves, which "
            "method.gramian=half_batches needs: give an even number.",
            "agent.batch_size",
            config.agent.batch_size,
        )
    check_convention(config.convention)


def keep_stored_options(config: Config, stored: dict[str, Any], overrides: Sequence[str]) -> None:
    """On resume, restore the method's stored options that no override sets, and older defaults.

    A default that changed between versions, such as FairGrad's solver, then does not change a run,
    nor does an option that is newer than the run: see `mtrl_fairgrad.config.older_runs`.

    Args:
        config: the resumed run's configuration as composed now; changed in place.
        stored: the run's own configuration.
        overrides: the command line, preceded by the run's stored one.
    """
    completed = complete(stored)
    kept = {key: completed[key] for key in RETYPED if key in completed}
    for key, value in {**missing_options(stored), **kept}.items():
        group, _, name = key.rpartition(".")
        if group != "method" and not is_given(key, overrides):
            setattr(getattr(config, group) if group else config, name, value)
    env: Any = stored.get("env")
    if isinstance(env, dict) and not is_given("env.horizon", overrides):
        # In older versions, preset=quick set it for every protocol.
        config.env.horizon = cast(dict[str, Any], env).get("horizon", config.env.horizon)
    options = completed.get("method")
    if not isinstance(options, dict):
        return
    method = cast(dict[str, Any], options)
    if method.get("name") != config.method["name"]:
        return
    for key in config.method.keys() & method.keys() - {"name"}:
        given = is_given(f"method.{key}", overrides) or (
            key == "alpha" and is_given("alpha", overrides)
        )
        if not given:
            config.method[key] = method[key]


def typed(defaults: Schema, composed: DictConfig) -> Schema:
    """Convert what Hydra composed into an instance of the dataclass of `defaults`.

    Values whose meaning is clear are converted, see `mtrl_fairgrad.config.coercion`.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type.
    """
    try:
        values = cast(dict[str, Any], OmegaConf.to_container(composed, resolve=False))
        values = coerce_fields(type(defaults), values)
        merged = OmegaConf.merge(OmegaConf.structured(defaults), values)
        return cast(Schema, OmegaConf.to_object(merged))
    except OverflowError:
        raise ConfigError(
            "a number of the configuration is too large: give one below 1e300."
        ) from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        key = str(error.full_key) if error.full_key else None
        where = key or "the configuration"
        raise ConfigError(f"{where}: {reason}; --help lists what is allowed.", key) from None


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """Convert to plain nested dictionaries, as written to config.yaml."""
    return asdict(config)


class WithMethod(Protocol):
    """A configuration with a method and the top-level shorthand `alpha`."""

    method: dict[str, Any]
    alpha: float | None


def resolve_alpha(config: WithMethod, method_alpha_given: bool = False) -> None:
    """Copy the top-level `alpha`, if any, to `method.alpha`.

    Raises:
        ConfigError: the method has no alpha, or `method.alpha` was also given, and differs.
    """
    alpha, method = config.alpha, config.method
    if alpha is None:
        return
    if "alpha" not in method:
        owners = [
            f"method={name}"
            for name, options in config_group("method").items()
            if "alpha" in options
        ]
        raise ConfigError(
            f"alpha={alpha:g} was given but method={method.get('name')} has no alpha: drop it, or "
            f"choose {' or '.join(owners)}.",
            "alpha",
            alpha,
        )
    if method_alpha_given and method["alpha"] != alpha:
        raise ConfigError(
            f"alpha={alpha:g} and method.alpha={method['alpha']} disagree: give only one of them.",
            "alpha",
            alpha,
        )
    method["alpha"] = alpha


def validate(config: Config) -> None:
    """Check everything that can be checked without PyTorch.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    validate_fields(config)
    check_env(config.env, config.eval)
    check_agent(config.agent)
    _check_replay(config)
    _check_precision(config)
    check_seeds(config.seeds)
    check_device(config.device)
    check_choice("method", str(config.method.get("name")), config_group("method"))
    _check_single_task(config)


def _check_replay(config: Config) -> None:
    """Check that a return of `agent.n_step` steps fits into the replay buffer of all copies."""
    agent, copies = config.agent, config.env.copies
    if agent.buffer_size < copies * agent.n_step:
        raise ConfigError(
            f"agent.buffer_size={agent.buffer_size} is too small for {agent.n_step} steps of each "
            f"of {copies} simulators per task (agent.n_step, env.copies): give "
            f"{copies * agent.n_step} or more.",
            "agent.buffer_size",
            agent.buffer_size,
        )


def _check_precision(config: Config) -> None:
    """Check that the precision is one that the networks are computed in."""
    if config.precision == "bf16" and config.agent.network not in BUILT_IN:
        raise ConfigError(
            f"precision=bf16 is for the networks {' and '.join(BUILT_IN)}, but "
            f"agent.network={config.agent.network} computes as it was written: drop one of them.",
            "precision",
            config.precision,
        )


def check_method(method: dict[str, Any], loss_alpha: float | None) -> Method:
    """Check a method's options and the loss transformation by constructing them.

    Returns:
        the method, transformed if there is a transformation.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    from mtrl_fairgrad.weighting import make_method
    from mtrl_fairgrad.weighting.alpha_fair import alpha_fair

    options = dict(method)
    name = str(options.pop("name", None))
    try:
        made = make_method(name, **options)
    except ConfigError as error:
        raise error.prefixed("method.") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return made if loss_alpha is None else alpha_fair(made, loss_alpha)


def _check_single_task(config: Config) -> None:
    """Check that no option contradicts single-task learning (`agent=stl`, `method=stl`)."""
    agent, method, loss_alpha = config.agent.name, config.method, config.loss_alpha
    if agent == "stl" and method["name"] != "stl":
        raise ConfigError(
            "agent=stl trains each task by an independent agent, whose gradients "
            f"method={method['name']} cannot combine: drop one of them.",
            "method",
            method["name"],
        )
    if method["name"] != "stl":
        return
    if agent != "stl":
        raise ConfigError(
            f"agent={agent} trains tasks together but method=stl trains each alone: "
            "drop one of them.",
            "agent",
            agent,
        )
    default = config_group("method")["stl"]["task"]
    if method.get("task", default) != default:
        raise ConfigError(
            f"method.task={method['task']} is for supervised learning; here method=stl trains "
            "every task by an independent agent: drop it, and choose tasks with env.tasks=[…].",
            "method.task",
            method["task"],
        )
    if loss_alpha is not None:
        raise ConfigError(
            f"loss_alpha={loss_alpha:g} is fairness between tasks "
            "but method=stl trains each alone: give only one.",
            "loss_alpha",
            loss_alpha,
        )


def changed_keys(
    before: dict[str, Any], after: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Compare two plain configurations.

    Returns:
        (dotted key, value before, value after) of each leaf that differs, sorted by key.
    """
    changes: list[tuple[str, Any, Any]] = []
    for key in sorted(before.keys() | after.keys()):
        name, old, new = f"{prefix}{key}", before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            nested = (cast(dict[str, Any], old), cast(dict[str, Any], new))
            changes += changed_keys(*nested, f"{name}.")
        elif old != new:
            changes.append((name, cast(Any, old), cast(Any, new)))
    return changes


def is_given(key: str, overrides: Sequence[str]) -> bool:
    """Whether an override sets an option: `key=`, `+key=` or `++key=`."""
    return any(override.lstrip("+").startswith(f"{key}=") for override in overrides)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested options: dotted name -> value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(cast("dict[str, Any]", value), f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
