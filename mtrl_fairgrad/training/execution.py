"""How the learner of a run computes: CUDA graphs, compilation and the precision of products."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from mtrl_fairgrad.config.schema import Config, ConfigError
from mtrl_fairgrad.gradients.graph_capture import Compile
from mtrl_fairgrad.runs.manifest import provenance
from mtrl_fairgrad.utils.faults import FallbackWarning
from mtrl_fairgrad.utils.malloc import keep_freed_memory


class Execution(NamedTuple):
    """The choices of a run on its device, `auto` decided."""

    cuda_graph: bool
    compile: Compile
    precision: str

    def record(self) -> dict[str, Any]:
        """Return the choices for the manifest."""
        return {**self._asdict(), "compile": bool(self.compile)}


def execution_of(config: Config, device: torch.device) -> Execution:
    """Decide the options that may be `auto` for this device.

    Raises:
        ConfigError: `cuda_graph=true` without a CUDA device.
    """
    on_gpu = device.type == "cuda"
    if config.cuda_graph == "true" and not on_gpu:
        raise ConfigError(
            f"cuda_graph=true needs a CUDA device, but the learner is on device={device.type}: use "
            "cuda_graph=auto or device=cuda.",
            "cuda_graph",
            config.cuda_graph,
        )
    compile: Compile = config.compile == "true"
    if config.compile == "auto" and on_gpu and has_gpu_compiler():
        compile = "auto"
    return Execution(on_gpu and config.cuda_graph != "false", compile, config.precision)


def resume_provenance(config: Config, device: torch.device) -> dict[str, Any]:
    """Describe versions, machine and execution of a run that is resumed by this process."""
    return {**provenance(str(device)), "execution": execution_of(config, device).record()}


def has_gpu_compiler() -> bool:
    """Whether `torch.compile` can make kernels for a GPU: with Triton, which needs a C compiler."""
    compilers = (os.environ.get("CC"), "gcc", "clang")  # in Triton's order
    return find_spec("triton") is not None and any(
        name is not None and shutil.which(name) for name in compilers
    )


def configure_torch(config: Config, device: torch.device) -> None:
    """Set types, threads, determinism and memory of this process, before CUDA is initialised.

    Memory that an update on the CPU frees stays with the process for the next one.
    """
    keep_freed_memory()
    torch.set_default_dtype(torch.float32)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by PyTorch
    torch.use_deterministic_algorithms(config.deterministic)
    # Nothing reads memory before it is written, and filling it costs a launch for each tensor.
    settings: Any = torch.utils.deterministic  # its attribute is not annotated
    settings.fill_uninitialized_memory = False
    if device.type == "cuda":
        # It sets the newer `fp32_precision` too; alone, the latter makes Inductor fail with TF32.
        torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")


@contextmanager
def settings_restored() -> Generator[None]:
    """Put back at the end what `configure_torch` changes in this process."""
    memory: Any = torch.utils.deterministic
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill, dtype = memory.fill_uninitialized_memory, torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        memory.fill_uninitialized_memory = fill
        if precision != torch.get_float32_matmul_precision():
            torch.set_float32_matmul_precision(precision)


def execution_notes(config: Config, device: torch.device) -> list[str]:
    """Return start-up notes, one sentence each, on how a run computes on this device."""
    if device.type != "cuda":
        without = f"precision=tf32 has no effect on device={device.type}, whose products are fp32"
        return [without] if config.precision == "tf32" else []
    graph, compile, precision = execution_of(config, device)
    parts = [
        f"updates and actions are {'replayed from CUDA graphs' if graph else 'computed eagerly'} "
        f"(cuda_graph={config.cuda_graph})",
        f"task gradients are {'' if compile else 'not '}compiled (compile={config.compile})",
        f"the networks' matrix products are computed in {precision}",
    ]
    return [", ".join(parts)]


@contextmanager
def fallbacks_as_notes(log: Callable[[str], None]) -> Generator[None]:
    """Log each `FallbackWarning` of the block as a note, instead of as a warning of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", FallbackWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, FallbackWarning):
                log(f"note: {message}")
            else:
                show(message, category, *place, **more)

        warnings.showwarning = note
        yield
