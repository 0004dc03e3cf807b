"""The fused kernels on a CPU: under Triton's interpreter, and compiled for a GPU that is not there.

Triton decides what it is when it is imported, so both need a process of their own.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtrl_fairgrad.weighting.solvers import Solution
from mtrl_fairgrad.weighting.solvers.fused import operators


@contextmanager
def process(**environment: str) -> Generator[ProcessPoolExecutor]:
    """A process that imports Triton with these variables set."""
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(environment,)
    ) as pool:
        yield pool


def _prepare(environment: dict[str, str]) -> None:
    import numpy as np

    os.environ.update(environment)
    torch.set_num_threads(1)
    np.seterr(all="ignore")


def newton(gramian: Tensor, alpha: float, **options: Any) -> tuple[Solution, Tensor]:
    """The solution by the interpreted kernel, and the numbers of iterations."""
    from mtrl_fairgrad.weighting.solvers.fused.newton_kernel import launch

    results = operators.empty_results(gramian)
    iterations = torch.empty(gramian.shape[:-2], dtype=torch.int32)
    active, start = options.get("active"), options.get("start")
    smallest = options.get("min_relative_norm", 0.0)
    launch(gramian, alpha, active, smallest, start, results, iterations)
    return Solution(*results), iterations


def sgd(
    gramian: Tensor,
    alpha: float,
    *,
    active: Tensor | None = None,
    steps: tuple[int, float, float, float] = (20, 0.1, 0.5, 1.0),
    single: bool = True,
) -> Solution:
    """The result of the interpreted kernel; `steps` are also learning rate, momentum, norm."""
    from mtrl_fairgrad.weighting.solvers.fused.sgd_kernel import launch

    results = operators.empty_results(gramian)
    launch(gramian, alpha, active, 0.0, steps, single, results)
    return Solution(*results)


TYPES = {
    "active_ptr": "*i1",
    "scratch_ptr": "*fp64",
    "residual_ptr": "*fp64",
    "converged_ptr": "*i1",
    "progress_ptr": "*fp64",
    "active_out_ptr": "*i1",
    "iterations_ptr": "*i32",
    "steps": "i32",
}


def compile_kernel(name: str, tasks: int, dtype: str, constants: dict[str, Any]) -> str:
    """Compile a kernel for an NVIDIA GPU of compute capability 9.0; return its PTX."""
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from mtrl_fairgrad.weighting.solvers.fused.launching import block_of, options_of

    folder = "mtrl_fairgrad.weighting.solvers.fused"
    kernel = getattr(importlib.import_module(f"{folder}.{name}"), name)
    block = block_of(tasks)
    constants = {**constants, "TASKS": tasks, "BLOCK": block}
    signature = {}
    for argument in kernel.arg_names:
        default = f"*{dtype}" if argument.endswith("_ptr") else "fp64"
        kind = TYPES.get(argument, default)
        signature[argument] = "constexpr" if argument in constants else kind
    compiled: Any = triton.compile(
        ASTSource(kernel, signature, constexprs=constants),
        target=GPUTarget("cuda", 90, 32),
        options=options_of(block),
    )
    assert compiled.asm["cubin"]
    return str(compiled.asm["ptx"])


def registers(ptx: str, folder: Path) -> str:
    """What the assembler says of registers and spilled bytes."""
    import subprocess

    import triton.backends.nvidia as backend

    (folder / "kernel.ptx").write_text(ptx)
    ptxas = Path(backend.__file__).parent / "bin" / "ptxas"
    command = [ptxas, "-v", "-arch=sm_90a", folder / "kernel.ptx", "-o", folder / "kernel.cubin"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr
