"""The typed configuration of a supervised run, and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from mtrl_fairgrad.config.alpha_grid import SearchConfig, check_search
from mtrl_fairgrad.config.convention import ConventionConfig, check_convention
from mtrl_fairgrad.config.groups import config_group
from mtrl_fairgrad.config.schema import (
    check_method,
    is_given,
    resolve_alpha,
    typed,
    without_interpolations,
)
from mtrl_fairgrad.utils.extras import require
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
    from mtrl_fairgrad.supervised.benchmark import Benchmark
    from mtrl_fairgrad.supervised.benchmarks.toy import ToyConfig


TRAIN, PUBLISHED = "train", "published"
"""Values of `baselines` that are not paths."""


@dataclass
class DataConfig:
    """Location of the data."""

    root: str | None = option(
        None, "Folder of the data set; null for a benchmark whose data come with a package."
    )


@dataclass
class SupervisedConfig:
    """One method on a supervised benchmark for some seeds, or a comparison of many methods."""

    benchmark: dict[str, Any] = option(
        factory=lambda: dict(config_group("benchmark")["digits"]),
        help="The benchmark's name and its own options.",
    )
    method: dict[str, Any] = option(
        factory=lambda: config_group("method")["fairgrad"],
        help="The method's name and its own options. Comparisons ignore it, except for "
        "compare=search, which takes the options of fairgrad.",
    )
    convention: ConventionConfig = field(default_factory=ConventionConfig)
    data: DataConfig = field(default_factory=DataConfig)
    alpha: float | None = option(
        None,
        "Fairness of FairGrad, α ≥ 0, short for method.alpha. 0: LS, 1: proportional, 2: minimum "
        "potential delay, large: max-min.",
    )
    loss_alpha: float | None = option(
        None, "α-fair transformation of the losses, l^(1−α)/(1−α) with α < 1; null: none."
    )
    seeds: list[int] = option(factory=lambda: [0], help="Seeds, trained one after the other.")
    compare: str | None = option(
        None,
        "A table of many methods instead of one: all, fair (with and without loss_alpha=0.5) or "
        "alpha (1, 2, 5, 10); or search: FairGrad's best α by validation Δm%, see search.",
        choices=("all", "fair", "alpha", "search"),
    )
    baselines: str | None = option(
        None,
        "Single-task results that Δm% refers to: train (a fit for each task), published (the "
        "paper's), or the run folder or table.csv that has them; null: train for compare=all, fair "
        "and alpha, else published, or train for compare=search where nothing is published.",
    )
    search: SearchConfig = field(default_factory=SearchConfig)
    epochs: int | None = option(None, "Epochs; null: the benchmark's.", at_least=1)
    batch_size: int | None = option(None, "Batch size; null: the benchmark's.", at_least=1)
    learning_rate: float | None = option(
        None, "Initial learning rate of Adam; null: the benchmark's.", above=0
    )
    halve_every: int | None = option(
        None,
        "The learning rate is halved after every so many epochs; null: the benchmark's.",
        at_least=1,
        unit="epochs",
    )
    plateau_threshold: float | None = option(
        None,
        "Relative improvement of validation Δm% below which an epoch counts as none, where the "
        "learning rate falls on a plateau (qm9): 1e-4 in the paper's code; null: the benchmark's, "
        "0.",
        at_least=0,
        below=1,
    )
    keep_last_batch: bool | None = option(
        None,
        "Train on the last, incomplete batch of an epoch, as the paper's code does; null: the "
        "benchmark's, false.",
    )
    representation: bool = option(
        False,
        "Combine gradients at the network's last shared layer instead of at its parameters: K "
        "passes through the heads and one through the encoder. Another direction, except for loss "
        "weightings; for celeba, digits and qm9.",
    )
    tasks_per_pass: int | None = option(
        None,
        "Tasks whose gradients one backward pass computes; null: 1 on CPU, on CUDA as many as fit "
        "into the memory. The result is the same up to rounding.",
        at_least=1,
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    threads: int | None = option(
        None, "Threads on CPU; null: PyTorch's default.", at_least=1, at_most=MAX_WORKERS
    )
    amp: bool = option(False, "Forward pass in bfloat16; gradients are combined in full precision.")
    workers: int = option(0, "Data loader processes.", at_least=0, at_most=MAX_WORKERS)
    run_dir: str | None = option(
        None,
        "Folder of the runs, which are continued if they exist; null: "
        "runs/<benchmark>-<method>-<time>.",
    )
    progress: bool = option(True, "Show the progress bar.")


def from_hydra(composed: DictConfig, overrides: Sequence[str] = ()) -> SupervisedConfig:
    """Convert what Hydra composed into a validated configuration.

    Args:
        composed: the whole configuration.
        overrides: the command line, which distinguishes requested values from defaults.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range or a contradiction.
    """
    config = typed(SupervisedConfig(benchmark={}, method={}), composed)
    resolve_alpha(config, method_alpha_given=is_given("method.alpha", overrides))
    validate(config)
    check_parts(config)
    return config


def from_plain(values: dict[str, Any]) -> SupervisedConfig:
    """Convert the configuration of a run's config.yaml, which was validated when it began.

    Raises:
        ConfigError: an unknown key, a wrong type, or an interpolation.
    """
    return typed(SupervisedConfig(benchmark={}, method={}), without_interpolations(values))


def validate(config: SupervisedConfig) -> None:
    """Check everything that can be checked without PyTorch.

    Raises:
        ConfigError: with the value, what is allowed and the fix.
    """
    validate_fields(config)
    check_seeds(config.seeds)
    check_device(config.device)
    check_choice("method", config.method.get("name"), config_group("method"))
    check_choice("benchmark", config.benchmark.get("name"), config_group("benchmark"))
    _check_search(config)


def check_parts(config: SupervisedConfig) -> None:
    """Check the options of method, convention and benchmark by constructing them; reads no data.

    Raises:
        ConfigError: with the value, what is allowed and the fix, or an extra is missing.
    """
    if check_method(config.method, config.loss_alpha).splits_batch:
        raise ConfigError(
            "method.gramian=half_batches is for reinforcement learning: here all losses have one "
            "graph, which has no halves: choose plain.",
            "method.gramian",
            "half_batches",
        )
    check_convention(config.convention, supervised=True)
    if config.benchmark["name"] == "toy":
        make_toy(config)
        return
    benchmark = make_benchmark(config)
    for module in benchmark.requires:
        require(module, "supervised")
    if config.representation:
        _check_representation(config, benchmark)
    _check_baselines(config, benchmark)


def _check_representation(config: SupervisedConfig, benchmark: Benchmark) -> None:
    from mtrl_fairgrad.weighting import make_method
    from mtrl_fairgrad.weighting.template import AveragingAggregation

    if benchmark.representation is None:
        raise ConfigError(
            f"representation=true is not defined for benchmark={benchmark.name}, whose shared "
            "parameters act on the losses through many layers: leave it out.",
            "representation",
            True,
        )
    method = str(config.method["name"])
    if config.compare is None and isinstance(make_method(method), AveragingAggregation):
        raise ConfigError(
            f"representation=true is not defined for method={method}, which averages gradients "
            "over batches, while every batch has another representation: leave it out.",
            "representation",
            True,
        )


def _check_baselines(config: SupervisedConfig, benchmark: Benchmark) -> None:
    chosen = config.baselines
    if chosen == PUBLISHED and benchmark.baseline is None:
        raise ConfigError(
            f"baselines={PUBLISHED} is not possible: nothing is published for "
            f"benchmark={benchmark.name}; choose {TRAIN}, or give a run folder or table.csv.",
            "baselines",
            chosen,
        )
    if chosen not in (None, TRAIN, PUBLISHED) and not Path(str(chosen)).exists():
        raise ConfigError(
            f"baselines={chosen} does not exist: give {TRAIN}, {PUBLISHED}, a run folder or "
            "table.csv.",
            "baselines",
            chosen,
        )


def _check_search(config: SupervisedConfig) -> None:
    if config.compare != "search":
        if config.search != SearchConfig():
            raise ConfigError(
                "search.… was given without a search: drop it, or add compare=search.", "search"
            )
        return
    if config.method["name"] != "fairgrad":
        raise ConfigError(
            f"method={config.method['name']} was given, but compare=search is for fairgrad only: "
            "drop one of them.",
            "method",
            config.method["name"],
        )
    default = config_group("method")["fairgrad"]["alpha"]
    if config.method["alpha"] != default or config.alpha is not None:
        raise ConfigError(
            f"alpha={config.method['alpha']:g} was given, but compare=search looks for it: drop "
            "it, or give where to start, such as search.coarse=[1,2].",
            "alpha",
            config.method["alpha"],
        )
    check_search(config.search)


def make_toy(config: SupervisedConfig) -> ToyConfig:
    """Make the options of `benchmark=toy`, which draws trajectories and trains no network.

    Raises:
        ConfigError: options that it does not have or allow, or another method than FairGrad.
    """
    from mtrl_fairgrad.supervised.benchmarks.toy import ToyConfig

    options = {key: value for key, value in config.benchmark.items() if key != "name"}
    if config.method["name"] != "fairgrad" or config.compare is not None:
        raise ConfigError(
            "benchmark=toy draws FairGrad alone: drop method= and compare=; benchmark.alphas=[0] "
            "is LS.",
            "benchmark",
            "toy",
        )
    if config.alpha is not None:
        options["alphas"] = [config.alpha]
    try:
        return ToyConfig(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"benchmark=toy: {error}", "benchmark", "toy") from None


def make_benchmark(config: SupervisedConfig) -> Benchmark:
    """Make the benchmark of a configuration; reads no data.

    Raises:
        ConfigError: the benchmark is unknown, or does not have or allow an option.
    """
    from mtrl_fairgrad.supervised.benchmarks import benchmark_class

    options = {key: value for key, value in config.benchmark.items() if key != "name"}
    name = str(config.benchmark.get("name"))
    root = None if config.data.root is None else Path(config.data.root)
    try:
        return benchmark_class(name)(root=root, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"benchmark={name}: {error}", "benchmark", name) from None
