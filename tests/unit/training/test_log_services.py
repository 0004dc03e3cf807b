"""What is handed to Weights & Biases and MLflow, whose packages need not be installed for this.

`test_log_backends` reads what the packages themselves write.
"""

import sys
from types import SimpleNamespace

import pytest

from mtrl_fairgrad.runs.run_dir import RunFolder
from mtrl_fairgrad.training.log_backends import make_backends
from tests.support.tiny_runs import composed

CONFIG = composed("env.tasks=[reach-v3,push-v3]", "seeds=[3,14]")


class FakeWandb:
    """Keeps what a run of Weights & Biases gets."""

    def __init__(self):
        self.options, self.logged, self.config, self.metrics = [], [], {}, {}
        self.finished = False
        self.Settings = SimpleNamespace

    def init(self, **options):
        self.options.append(options)
        return SimpleNamespace(
            define_metric=lambda name, **how: self.metrics.update({name: how}),
            config=SimpleNamespace(update=lambda values, **_: self.config.update(values)),
            log=self.logged.append,
            finish=lambda: setattr(self, "finished", True),
        )


class FakeMlflow:
    """Keeps what the client of MLflow gets."""

    def __init__(self):
        self.runs, self.parameters, self.values, self.status = {}, {}, [], None
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name):
        return None if not self.runs else SimpleNamespace(experiment_id="1")

    def create_experiment(self, name):
        return "1"

    def search_runs(self, experiments, query, max_results):
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=name))
            for name, tags in self.runs.items()
            if all(f"'{value}'" in query for value in tags.values())
        ]

    def create_run(self, experiment, tags, run_name):
        self.runs[run_name] = tags
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

    def update_run(self, run, status):
        self.status = status

    def log_batch(self, run, metrics=(), params=()):
        assert len(params) <= 100 and len(metrics) <= 1000, "MLflow refuses larger batches"
        self.parameters.update(params)
        self.values += metrics

    def get_metric_history(self, run, key):
        return [SimpleNamespace(step=step) for name, _, step in self.values if name == key]

    def set_terminated(self, run):
        self.status = "FINISHED"


@pytest.fixture
def folder(tmp_path):
    content = {"seeds": [3, 14], "steps": 100}, {"started": "now"}
    return RunFolder.create(tmp_path / "mine", *content).path


def log(folder, name, *entries):
    notes = []
    [backend] = make_backends([name], folder, 0, notes.append)
    backend.describe(CONFIG, 0)
    for entry in entries:
        backend.add_scalar(*entry)
    backend.flush()
    backend.close()
    assert notes == []


def test_weights_and_biases_gets_one_entry_for_each_step(folder, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    log(folder, "wandb", ("a", 1, 0), ("b", 2, 0), ("a", 3, 5), ("late", 4, 0))
    assert fake.logged == [
        {"env_steps": 0, "a": 1, "b": 2},
        {"env_steps": 5, "a": 3},
        {"env_steps": 0, "late": 4},
    ]
    assert fake.metrics["*"] == {"step_metric": "env_steps"} and fake.finished
    assert fake.config["seeds"] == [3, 14]
    monkeypatch.setenv("WANDB_PROJECT", "other")
    log(folder, "wandb")
    first, again = fake.options
    assert first["id"] == again["id"] and first["name"] == "mine", "a resumed run goes on"
    assert (first["project"], again["project"]) == ("mtrl-fairgrad", "other")


def test_mlflow_gets_metrics_by_env_steps_and_the_configuration(folder, monkeypatch):
    fake = FakeMlflow()
    entities = SimpleNamespace(
        Metric=lambda key, value, when, step: (key, value, step), Param=lambda *pair: pair
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    log(folder, "mlflow", ("success/b(x=1)", 0.5, 7), *(("a", n, n) for n in range(1200)))
    assert fake.values[0] == ("success/b_x_1_", 0.5, 7) and len(fake.values) == 1201
    assert fake.parameters["agent.width"] == "400" and fake.parameters["seeds"] == "[3, 14]"
    assert fake.status == "FINISHED"
    log(folder, "mlflow", ("a", 1199, 1199), ("a", 1, 1201), ("success/b(x=1)", 0.5, 8))
    assert fake.values[1201:] == [("a", 1, 1201), ("success/b_x_1_", 0.5, 8)], "nothing is doubled"
    assert list(fake.runs) == ["mine"], "a resumed run goes on"
