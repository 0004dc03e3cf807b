"""How a run computes: CUDA graphs, compilation and precision, decided by the device."""

import warnings

import pytest
import torch

from mtrl_fairgrad.training import execution
from mtrl_fairgrad.training.execution import (
    Execution,
    configure_torch,
    execution_notes,
    execution_of,
    fallbacks_as_notes,
    has_gpu_compiler,
)
from mtrl_fairgrad.utils.faults import FallbackWarning
from tests.support.errors import refused
from tests.support.small_learner import SMALL, learner_of
from tests.support.tiny_runs import composed

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False], ids=["compiler", "no compiler"])
def compiler(request, monkeypatch):
    monkeypatch.setattr(execution, "has_gpu_compiler", lambda: request.param)
    return request.param


def test_auto_is_on_for_a_gpu_and_off_for_a_cpu(compiler):
    assert execution_of(composed(), CPU) == Execution(False, False, "fp32")
    assert execution_of(composed(), GPU) == Execution(True, "auto" if compiler else False, "fp32")


@pytest.mark.parametrize("word", ["true", "True", "'true'"])
def test_what_is_asked_for_is_not_left_to_the_machine(word, compiler):
    asked = composed(f"cuda_graph={word}", f"compile={word}", "precision=bf16")
    assert execution_of(asked, GPU) == Execution(True, True, "bf16")
    with refused("cuda_graph", "true"):
        execution_of(asked, CPU)
    with refused("cuda_graph", "true"):
        learner_of(*SMALL, f"cuda_graph={word}")


@pytest.mark.parametrize("word", ["false", "'false'"])
def test_what_is_turned_off_stays_off(word, compiler):
    off = composed(f"cuda_graph={word}", f"compile={word}", "precision=tf32")
    assert execution_of(off, GPU) == Execution(False, False, "tf32")
    assert execution_of(off, CPU) == Execution(False, False, "tf32")


@pytest.mark.parametrize(
    ("key", "value"),
    [("cuda_graph", "yes"), ("compile", "1"), ("compile", "never"), ("precision", "fp16")],
)
def test_other_values_are_refused(key, value):
    with refused(key, value):
        composed(f"{key}={value}")


def test_a_choice_is_recorded_as_what_is_done():
    assert Execution(True, "auto", "tf32").record() == {
        "cuda_graph": True,
        "compile": True,
        "precision": "tf32",
    }


def test_a_gpu_is_told_of_and_a_cpu_only_where_an_option_has_no_effect(compiler):
    [note] = execution_notes(composed(), GPU)
    assert "replayed from CUDA graphs (cuda_graph=auto)" in note
    assert ("not compiled" not in note) == compiler and "(compile=auto)" in note
    [note] = execution_notes(composed("cuda_graph=false"), GPU)
    assert "eagerly (cuda_graph=false)" in note
    assert execution_notes(composed(), CPU) == []
    assert execution_notes(composed("precision=bf16"), CPU) == []
    [note] = execution_notes(composed("precision=tf32"), CPU)
    assert note.startswith("precision=tf32 ")


@pytest.mark.parametrize(("there", "cc", "found"), [(1, 1, True), (1, 0, False), (0, 1, False)])
def test_a_gpu_is_compiled_for_where_triton_and_a_c_compiler_are(there, cc, found, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(execution, "find_spec", lambda name: there or None)
    monkeypatch.setattr(execution.shutil, "which", lambda name: cc and name == "clang")
    assert bool(has_gpu_compiler()) == found


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_the_precision_is_set_for_a_gpu_so_that_both_interfaces_agree(precision):
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision()
    config = composed(f"precision={precision}")
    try:
        torch.set_float32_matmul_precision("highest")
        configure_torch(config, CPU)
        assert torch.get_float32_matmul_precision() == "highest"
        configure_torch(config, GPU)
        assert matmul.fp32_precision == ("tf32" if precision == "tf32" else "ieee")
        assert matmul.allow_tf32 == (precision == "tf32")  # Inductor reads it
    finally:
        torch.set_float32_matmul_precision(before)


def test_deterministic_kernels_do_not_fill_the_memory_of_every_new_tensor(monkeypatch):
    settings = torch.utils.deterministic
    monkeypatch.setattr(settings, "fill_uninitialized_memory", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        configure_torch(composed("deterministic=true"), CPU)
        assert torch.are_deterministic_algorithms_enabled()
        assert not settings.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)


def test_fallbacks_become_notes_and_other_warnings_stay_warnings():
    notes = []

    def warn():
        with fallbacks_as_notes(notes.append):
            warnings.warn("slower 1", FallbackWarning, stacklevel=1)
            warnings.warn("slower 2", FallbackWarning, stacklevel=1)
            warnings.warn("another", UserWarning, stacklevel=1)

    with pytest.warns(UserWarning, match="another"):
        warn()
    assert notes == ["note: slower 1", "note: slower 2"]
