"""The typed configuration of a supervised run, and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mtrl_fairgrad.config.alpha_grid import SearchConfig, check_search
from mtrl_fairgrad.config.groups import config_group
from mtrl_fairgrad.config.schema import (
    ConventionConfig,
    check_convention,
    check_method,
    resolve_alpha,
    typed,
)
from mtrl_fairgrad.utils.validation import (
    MAX_WORKERS,
    ConfigError,
    check_choice,
    check_device,
    check_integer,
    check_number,
    check_seeds,
)

if TYPE_CHECKING:
    from mtrl_fairgrad.supervised.benchmark import Benchmark
    from mtrl_fairgrad.supervised.benchmarks.toy import ToyConfig

COMPARISONS = ("all", "fair", "alpha", "search")
EXACT = "newton"
"""The solver of `method=fairgrad` in supervised learning, which is its default in Python."""


@dataclass
class DataConfig:
    """Where the data are."""

    root: str | None = None
    """Folder of the data set; null for those that need none."""


@dataclass
class SupervisedConfig:
    """A supervised benchmark, one method and its seeds, or a comparison of many."""

    benchmark: dict[str, Any] = field(
        default_factory=lambda: {"name": "digits", "pairs": 4000, "width": 12}
    )
    """`name` and the benchmark's own options."""
    method: dict[str, Any] = field(
        default_factory=lambda: {**config_group("method")["fairgrad"], "solver": EXACT}
    )
    """`name` and the method's own options; ignored in comparisons but search, which takes those of
    fairgrad.
    """
    convention: ConventionConfig = field(default_factory=ConventionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    alpha: float | None = None
    """Fairness of FairGrad, α ≥ 0; short for method.alpha."""
    loss_alpha: float | None = None
    """α-fair transformation of the losses, α < 1; null: none."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """One run after the other."""
    compare: str | None = None
    """all, fair or alpha: a table of many methods; search: the best α for FairGrad."""
    search: SearchConfig = field(default_factory=SearchConfig)
    epochs: int | None = None
    """null: the benchmark's."""
    batch_size: int | None = None
    """null: the benchmark's."""
    learning_rate: float | None = None
    """Adam; null: the benchmark's."""
    halve_every: int | None = None
    """Epochs after which the learning rate is halved, again and again; null: the benchmark's."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int | None = None
    """Threads on CPU; null: PyTorch's choice."""
    amp: bool = False
    """Forward pass in bfloat16; gradients are combined in full precision."""
    workers: int = 0
    """Data loader processes."""
    run_dir: str | None = None
    """Folder of the runs; one that is there is continued."""
    progress: bool = True
    """Show the progress bar."""


def from_hydra(composed: DictConfig, overrides: Sequence[str] = ()) -> SupervisedConfig:
    """The typed and validated configuration of what Hydra composed.

    Raises:
        ConfigError: anything unknown, of the wrong type, out of range or contradictory.
    """
    config = typed(SupervisedConfig(benchmark={}, method={}), composed)
    if config.method.get("name") == "fairgrad" and not any(
        word.startswith("method.solver=") for word in overrides
    ):
        config.method["solver"] = EXACT  # the file has the paper's for reinforcement learning
    resolve_alpha(config, asked=any(override.startswith("method.alpha=") for override in overrides))
    validate(config)
    check_parts(config)
    return config


def validate(config: SupervisedConfig) -> None:
    """Check everything that can be checked without PyTorch.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    check_seeds(config.seeds)
    check_device(config.device)
    check_choice("method", str(config.method.get("name")), config_group("method"))
    check_choice("benchmark", str(config.benchmark.get("name")), config_group("benchmark"))
    if config.compare is not None:
        check_choice("compare", config.compare, COMPARISONS)
    _check_search(config)
    for name in ("epochs", "batch_size", "halve_every", "threads"):
        if getattr(config, name) is not None:
            check_integer(name, getattr(config, name), at_least=1)
    check_integer("workers", config.workers, at_most=MAX_WORKERS)
    if config.learning_rate is not None:
        hint = "or null for the benchmark's"
        check_number("learning_rate", config.learning_rate, above=0, hint=hint)


def check_parts(config: SupervisedConfig) -> None:
    """Refuse options of method, convention and benchmark that these do not allow, by making them;
    reads no data.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    check_method(config.method, config.loss_alpha)
    check_convention(config.convention)
    if config.benchmark.get("name") == "toy":
        make_toy(config)
    else:
        make_benchmark(config)


def _check_search(config: SupervisedConfig) -> None:
    search = config.search
    if config.compare != "search":
        if search != SearchConfig():
            raise ConfigError(
                "search.… was given, but nothing is searched: drop it, or add compare=search."
            )
        return
    if config.method["name"] != "fairgrad":
        raise ConfigError(
            f"compare=search looks for the α of fairgrad, but method={config.method['name']} was "
            "given: drop one of them."
        )
    if (
        config.method["alpha"] != config_group("method")["fairgrad"]["alpha"]
        or config.alpha is not None
    ):
        raise ConfigError(
            f"alpha={config.method['alpha']:g} was given, but compare=search looks for it: drop "
            "it, or give where to begin, such as search.coarse=[1,2]."
        )
    check_search(search)


def make_toy(config: SupervisedConfig) -> ToyConfig:
    """The options of `benchmark=toy`, which has trajectories in place of data and networks.

    Raises:
        ConfigError: options it does not have or allow, or another method than FairGrad.
    """
    from mtrl_fairgrad.supervised.benchmarks.toy import ToyConfig

    chosen = {key: value for key, value in config.benchmark.items() if key != "name"}
    if config.method["name"] != "fairgrad" or config.compare is not None:
        raise ConfigError(
            "benchmark=toy draws FairGrad alone: drop method= and compare=, alphas=[0] is LS."
        )
    if config.alpha is not None:
        chosen["alphas"] = [config.alpha]
    try:
        return ToyConfig(**chosen)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"benchmark=toy: {error}") from None


def make_benchmark(config: SupervisedConfig) -> Benchmark:
    """The benchmark of a configuration; reads no data.

    Raises:
        ConfigError: an unknown one, or options it does not have or allow.
    """
    from mtrl_fairgrad.supervised.benchmarks import benchmark_class

    chosen = dict(config.benchmark)
    name = str(chosen.pop("name", None))
    root = None if config.data.root is None else Path(config.data.root)
    try:
        return benchmark_class(name)(root=root, **chosen)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"benchmark={name}: {error}") from None
