"""Where scalars go: files of the run folder, and services in their offline modes."""

import csv
import json
import struct
import subprocess
import sys

import numpy as np
import pytest

from mtrl_fairgrad.config.schema import LOGGERS
from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training import log_backends
from mtrl_fairgrad.training.log_backends import FaultTolerantLog, check_loggers
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.utils.extras import MissingExtraError
from tests.support.errors import refused
from tests.support.tiny_runs import composed, scalars

CONFIG = composed("env.tasks=[reach-v3,push-v3]", "seeds=[3,14]")
SUCCESS = np.array([[1.0, 0.5], [0.0, 0.25]])


def make_logger(folder, *backends, first_step=0):
    return Logger(
        folder, ["a", "b(x=1)"], 100, first_step, False, False, None, (3, 14), backends=backends
    )


def log(folder, *backends, env_steps=0):
    logger = make_logger(folder, *backends, first_step=env_steps)
    logger.describe(CONFIG, env_steps)
    logger.log_evaluation(SUCCESS, 100 * SUCCESS, SUCCESS, env_steps)
    logger.log_speed(60.0, env_steps + 5)
    logger.close()


def lines(folder):
    with (folder / "scalars.csv").open() as file:
        return [
            (int(row["env_steps"]), row["name"], float(row["value"]))
            for row in csv.DictReader(file)
        ]


def run_folder(path):
    return RunFolder.create(path, {"seeds": [3, 14], "steps": 100}, {"started": "now"}).path


def test_the_csv_file_has_every_scalar_that_tensorboard_has(tmp_path):
    log(tmp_path, "tensorboard", "csv")
    found = {(step, name): value for step, name, value in lines(tmp_path)}
    shown = {
        (step, tag): value for tag, entries in scalars(tmp_path).items() for step, value in entries
    }
    assert found == pytest.approx(shown) and (5, "speed/env_steps_per_second") in shown


def test_only_the_named_backends_write(tmp_path):
    log(tmp_path, "csv")
    assert not list(tmp_path.glob("events.*"))
    (tmp_path / "none").mkdir()
    log(tmp_path / "none")
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["metrics.csv"]


def test_a_resumed_run_continues_its_csv_file(tmp_path):
    log(tmp_path, "csv")
    log(tmp_path, "csv", env_steps=20)
    steps = [env_steps for env_steps, _, _ in lines(tmp_path)]
    assert steps == sorted(steps) and set(steps) == {0, 5, 20, 25}


def test_loggers_are_named_alone_or_in_a_list():
    assert composed("logger=csv").logger == ["csv"]
    assert composed("logger=[csv,tensorboard]").logger == ["csv", "tensorboard"]
    assert composed("logger=[]").logger == [] and composed().logger == ["tensorboard"]
    with refused("logger", "tensorbord"):
        composed("logger=[csv,tensorbord]")


@pytest.mark.parametrize("name", sorted(log_backends.SERVICES))
def test_a_service_that_is_not_installed_is_refused_with_its_extra(name, monkeypatch):
    monkeypatch.setattr("mtrl_fairgrad.utils.extras.find_spec", lambda module: None)
    with pytest.raises(MissingExtraError, match=rf"mtrl-fairgrad\[{name}\]"):
        check_loggers(["csv", name])
    check_loggers(["csv", "tensorboard"])
    assert set(log_backends.SERVICES) < set(LOGGERS)


class Failing:
    def __init__(self):
        self.calls = 0

    def add_scalar(self, name, value, env_steps):
        self.calls += 1
        raise ConnectionError("no route\nto host")


def test_a_fault_of_a_service_ends_its_log_with_a_note_and_not_the_training():
    notes, failing = [], Failing()
    backend = FaultTolerantLog("mlflow", failing, notes.append)
    for step in range(3):
        backend.add_scalar("loss", 1.0, step)
    backend.flush(), backend.close()
    assert failing.calls == 1
    [note] = notes
    assert "mlflow" in note and "no route" in note and "\n" not in note


def test_a_service_that_does_not_start_is_refused_before_training(tmp_path, monkeypatch):
    broken = log_backends.Service("json", "csv_file:NoSuchLog", "install it")
    monkeypatch.setitem(log_backends.SERVICES, "wandb", broken)
    monkeypatch.setattr("mtrl_fairgrad.training.log_backends.csv_file.NoSuchLog", 1, raising=False)
    with refused("logger", "wandb"):
        make_logger(tmp_path, "wandb")


def test_services_are_imported_only_if_they_are_named():
    code = (
        "import sys, mtrl_fairgrad.training.factory\n"
        "assert not {'wandb', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


# ---- services in their offline modes ----


@pytest.mark.exhaustive
def test_weights_and_biases_offline_has_the_scalars_over_env_steps(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run_folder(tmp_path / "mine")
    log(folder, "wandb")
    log(folder, "wandb", env_steps=20)
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1, "a resumed run keeps its id"
    entries = [entry for path in files for entry in history(path)]
    assert {entry["env_steps"] for entry in entries} == {0, 5, 20, 25}
    [first, *_] = entries
    assert first["success_mean/mean"] == SUCCESS.mean() and first["seed_3/success_mean"] == 0.75


def history(path):
    """Read the entries of an offline run: records of protobuf in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts, entries = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:  # too little of a block for a header
            place += left
        size, kind = struct.unpack_from("<HB", data, place + 4)
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind not in (1, 4):  # a whole record, or the last part of one
            continue
        record, parts = wandb_internal_pb2.Record.FromString(parts), b""
        if items := record.history.item:
            names = ("/".join(item.nested_key) or item.key for item in items)
            entries.append(
                {name: json.loads(item.value_json) for name, item in zip(names, items, strict=True)}
            )
    return entries


@pytest.mark.exhaustive
def test_mlflow_in_a_local_file_has_metrics_and_parameters(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = run_folder(tmp_path / "mine")
    log(folder, "mlflow")
    log(folder, "mlflow", env_steps=20)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("mtrl-fairgrad")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine" and run.info.status == "FINISHED"
    assert run.data.params["agent.width"] == "400"
    entries = client.get_metric_history(run.info.run_id, "success_mean/mean")
    assert [(entry.step, entry.value) for entry in entries] == [
        (0, SUCCESS.mean()),
        (20, SUCCESS.mean()),
    ]
    assert run.data.metrics["success/b_x_1_"] == 0.375
    assert mlflow.active_run() is None
