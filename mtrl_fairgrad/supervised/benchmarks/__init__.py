"""The supervised benchmarks: data sets, networks, losses and metrics.

To add one, write a module with a subclass of `mtrl_fairgrad.supervised.benchmark.Benchmark`, add
it to `BENCHMARKS` under the class's `name`, and give its options and their defaults in
`configs/benchmark/NAME.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from mtrl_fairgrad.utils.validation import check_choice

if TYPE_CHECKING:
    from mtrl_fairgrad.supervised.benchmark import Benchmark

BENCHMARKS: Mapping[str, str] = {
    "celeba": "mtrl_fairgrad.supervised.benchmarks.celeba:CelebA",
    "cityscapes": "mtrl_fairgrad.supervised.benchmarks.cityscapes:Cityscapes",
    "digits": "mtrl_fairgrad.supervised.benchmarks.digits:Digits",
    "nyuv2": "mtrl_fairgrad.supervised.benchmarks.nyuv2:NYUv2",
    "qm9": "mtrl_fairgrad.supervised.benchmarks.qm9:QM9",
}
"""Name → module and class, imported on first use.

`toy` is not among them, because it draws trajectories and trains no network.
"""


def benchmark_class(name: str) -> type[Benchmark]:
    """Import the class of the benchmark called `name`.

    Raises:
        ConfigError: no benchmark has this name.
    """
    check_choice("benchmark", name, BENCHMARKS)
    module, _, attribute = BENCHMARKS[name].partition(":")
    return getattr(import_module(module), attribute)
