"""A fit that fails: it is recorded, the others go on, and only it is repeated."""

import pytest

from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.supervised.fit_folder import FitResult
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.utils.faults import TrainingFault
from tests.unit.supervised.fit_files import table_rows

TINY = ["benchmark.pairs=8", "benchmark.width=1", "epochs=1", "progress=false", "threads=1"]
METRICS = {"left": 80.0, "right": 50.0, "ink": 2.0}


@pytest.fixture
def fits(monkeypatch):
    """Replace training; returns (faults by row and seed, list of what was trained)."""
    faults, trained = {}, []

    def run(trainer, progress):
        row, seed = trainer.folder.path.parent.name, trainer.spec.seed
        trained.append((row, seed))
        for key in (row, (row, seed)):
            if key in faults:
                raise faults[key]
        return FitResult(METRICS, METRICS, 1.0)

    monkeypatch.setattr(Trainer, "__init__", fake_init)
    monkeypatch.setattr(Trainer, "run", run)
    return faults, trained


def fake_init(self, spec, benchmark, folder, *others):
    self.spec, self.benchmark, self.folder = spec, benchmark, folder


@pytest.mark.parametrize(
    "fault",
    [
        TrainingFault("in epoch 3 the loss of ink is not finite: try a smaller learning_rate."),
        ValueError("task 1's loss is 0: uw needs positive losses."),
        RuntimeError("CUDA out of memory.\nTried to allocate 1 GiB."),
        TypeError("unsupported operand"),
        ZeroDivisionError("division by zero"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_every_error_is_recorded_where_the_fit_is(fits, fault, tmp_path, capsys):
    faults, _ = fits
    faults["uw"] = fault
    assert main([*TINY, "method=uw", f"run_dir={tmp_path}"]) == 1
    failed = table_rows(tmp_path / "table.csv")["uw"]
    assert str(fault).splitlines()[0] in failed.pop("fault")
    assert failed.pop("seeds") == "0"
    assert set(failed.values()) == {"uw", ""}
    printed = capsys.readouterr()
    assert "uw failed" in printed.out and "uw failed" in printed.err
    assert "Traceback" not in printed.out + printed.err
    [record] = tmp_path.glob("**/fault.txt")
    assert record.parent == tmp_path / "uw/seed-0" and "Traceback" in record.read_text()


def test_the_other_rows_go_on_and_only_what_failed_is_repeated(fits, tmp_path):
    faults, trained = fits
    faults["uw"] = ValueError("task 1's loss is 0: uw needs positive losses.")
    words = [*TINY, "compare=fair", f"run_dir={tmp_path}"]
    assert main(words) == 1
    found = table_rows(tmp_path / "table.csv")
    assert len(found) == 1 + 14 and found.pop("uw")["fault"]
    assert all(row["fault"] == "" and row["left"] == "80.0" for row in found.values())
    assert {row["mr"] for method, row in found.items() if method != "stl"} == {"1.0"}
    trained.clear()
    faults.clear()
    assert main(words) == 0
    assert trained == [("uw", 0)] and not list(tmp_path.glob("**/fault.txt"))
    assert table_rows(tmp_path / "table.csv")["uw"]["left"] == "80.0"


def test_one_seed_that_fails_fails_its_row_and_the_other_seeds_are_kept(fits, tmp_path, capsys):
    faults, trained = fits
    faults["fairgrad α=2", 1] = TrainingFault("too large.")
    words = [*TINY, "compare=alpha", "seeds=[0,1,2]", f"run_dir={tmp_path}"]
    assert main(words) == 1
    assert [seed for row, seed in trained if row == "fairgrad α=2"] == [0, 1, 2]
    found = table_rows(tmp_path / "table.csv")
    assert (
        found["fairgrad α=2"]["fault"] == "seed 1: too large." and not found["fairgrad α=2"]["mr"]
    )
    trained.clear()
    faults.clear()
    assert main(words) == 0 and trained == [("fairgrad α=2", 1)]


def test_without_the_single_task_row_delta_m_is_undefined(fits, tmp_path, capsys):
    faults, _ = fits
    faults["stl-1"] = TrainingFault("too large.")
    assert main([*TINY, "compare=alpha", f"run_dir={tmp_path}"]) == 1
    found = table_rows(tmp_path / "table.csv")
    assert "task right" in found["stl"]["fault"]
    assert {row["delta_m"] for row in found.values()} == {""}
    assert all(row["mr"] for method, row in found.items() if method != "stl")
    assert main([*TINY, "compare=search", f"run_dir={tmp_path}"]) == 1
    assert "stl-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), 130), (OSError(28, "No space left on device"), 1), (DataError("x."), 2)],
)
def test_what_every_fit_would_meet_ends_a_comparison(fits, error, code, tmp_path, capsys):
    faults, trained = fits
    faults["fairgrad α=1"] = error
    assert main([*TINY, "compare=alpha", f"run_dir={tmp_path}"]) == code
    assert trained[-1] == ("fairgrad α=1", 0)
    assert table_rows(tmp_path / "table.csv").keys() == {"stl"}


def test_a_loss_of_a_real_fit_that_a_method_cannot_take_fails_its_row(
    tmp_path, capsys, monkeypatch
):
    """A negative loss, which no epsilon makes positive."""
    losses = Digits.losses
    monkeypatch.setattr(Digits, "losses", lambda *given: [loss - 100 for loss in losses(*given)])
    words = [*TINY, "method=si", f"run_dir={tmp_path}"]
    assert main(words) == 1
    assert table_rows(tmp_path / "table.csv")["si"]["fault"]
    assert capsys.readouterr().err.count("\n") == 1
