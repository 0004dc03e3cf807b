"""`representation`, `tasks_per_pass`, and what a finished fit keeps."""

import json

import pytest
import torch

from mtrl_fairgrad.supervised.__main__ import main
from mtrl_fairgrad.supervised.benchmarks.digits import Digits
from mtrl_fairgrad.supervised.fit_folder import FitFolder
from mtrl_fairgrad.supervised.trainer import Trainer
from mtrl_fairgrad.weighting import make_method

TINY = ["benchmark.pairs=40", "benchmark.width=1", "batch_size=20", "progress=false", "threads=1"]


def fit(folder, *words):
    """Train; returns the folder and the network's parameters at the end, as one vector."""
    assert main([*TINY, *words, f"run_dir={folder}"]) == 0
    [path] = folder.glob("*/seed-0")
    tensors = FitFolder.open(path).load_checkpoint().groups["model"]
    return path, torch.cat([part.flatten() for _, part in sorted(tensors.items())])


@pytest.mark.parametrize("method", ["fairgrad", "pcgrad", "moco"])
@pytest.mark.parametrize("size", [2, 3])
def test_passes_of_several_tasks_train_as_passes_of_one(method, size, tmp_path):
    words = [f"method={method}", "epochs=1"]
    _, alone = fit(tmp_path / "one", *words)
    path, together = fit(tmp_path / "many", *words, f"tasks_per_pass={size}")
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert FitFolder.open(path).config["tasks_per_pass"] == size


@pytest.mark.parametrize("method", ["ls", "uw", "famo", "stl"])
def test_for_loss_weightings_a_representation_changes_nothing(method, tmp_path):
    words = [f"method={method}", "epochs=1"]
    _, plain = fit(tmp_path / "plain", *words)
    _, found = fit(tmp_path / "representation", *words, "representation=true")
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["fairgrad", "mgda"])
def test_gradients_are_combined_at_the_representation(method, tmp_path, monkeypatch):
    """The encoder's gradient is that of the combined direction at its output, propagated once."""
    steps = []
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: steps.append([p.grad for p in self.params()])
    )
    monkeypatch.setattr(
        torch.optim.Adam,
        "params",
        lambda self: [p for g in self.param_groups for p in g["params"]],
        raising=False,
    )
    batches = []
    losses = Digits.losses

    def recorded(self, outputs, batch):
        batches.append(batch)
        return losses(self, outputs, batch)

    monkeypatch.setattr(Digits, "losses", recorded)
    options = ["benchmark.pairs=20"]  # one step
    fit(tmp_path, f"method={method}", "epochs=1", "representation=true", *options)
    [gradients] = steps
    torch.manual_seed(0)
    model, batch = Digits(width=1).model(), batches[-1]
    features = model.encoder(batch[0]).detach().requires_grad_()
    heads = [head(features) for head in model.heads]
    parts = losses(Digits(), [heads[0], heads[1], heads[2][:, 0]], batch)
    rows = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in parts]
    matrix = torch.stack([row.flatten() for row in rows])
    weights = make_method(method)(matrix @ matrix.T).weights
    direction = (weights @ matrix).view_as(features)
    encoder = [*model.encoder.parameters()]
    expected = torch.autograd.grad(model.encoder(batch[0]), encoder, direction)
    found = gradients[: len(expected)]
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-6)


def test_graddrop_draws_for_every_coordinate_of_the_representation(tmp_path):
    """With a leak of 1 it is the plain sum."""
    words = ["method=graddrop", "epochs=1", "representation=true"]
    _, dropped = fit(tmp_path / "dropped", *words)
    _, kept = fit(tmp_path / "kept", *words, "method.leak=1")
    _, summed = fit(tmp_path / "sum", "method=ls", "epochs=1")
    assert not torch.allclose(dropped, summed)
    torch.testing.assert_close(kept, summed, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["method=moco", "representation=true"], "method=moco"),
        (["method=db_mtl", "representation=true"], "method=db_mtl"),
        (["benchmark=nyuv2", "representation=true"], "benchmark=nyuv2"),
        (["benchmark=cityscapes", "representation=true"], "benchmark=cityscapes"),
        (["tasks_per_pass=0"], "tasks_per_pass=0"),
        (["method=fairgrad", "method.gramian=half_batches"], "method.gramian=half_batches"),
    ],
)
def test_what_is_not_defined_here_is_refused(words, key, tmp_path, capsys):
    tiny = TINY if not words[0].startswith("benchmark") else TINY[2:]
    assert main([*tiny, *words, f"run_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert key in error and error.count("\n") == 1 and not (tmp_path / "r").exists()


def test_fits_without_the_new_options_have_the_old_specification(tmp_path):
    path, _ = fit(tmp_path, "method=ls", "epochs=1")
    assert not {"representation", "tasks_per_pass"} & FitFolder.open(path).config.keys()


# ---- finished fits ----


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*.safetensors"))


def test_a_finished_fit_keeps_one_checkpoint_without_optimizer(tmp_path, monkeypatch):
    words, during = ["method=fairgrad", "epochs=3", "benchmark.width=12"], []
    run_epoch = Trainer.run_epoch

    def watched(trainer, epoch):
        during.append(size(trainer.folder.path))
        return run_epoch(trainer, epoch)

    monkeypatch.setattr(Trainer, "run_epoch", watched)
    path, _ = fit(tmp_path, *words)
    folder = FitFolder.open(path)
    assert [one.name for one in folder.checkpoints()] == [f"{3:012d}"]
    assert folder.load_checkpoint().groups.keys() == {"model", "method"}
    assert size(path) < 0.2 * during[-1]


def test_a_fit_that_was_killed_after_its_last_checkpoint_finishes(tmp_path):
    words = ["method=fairgrad", "epochs=2"]
    path, _ = fit(tmp_path, *words)
    before = json.loads((path / "outcome.json").read_text())
    (path / "outcome.json").unlink()
    fit(tmp_path, *words)
    assert json.loads((path / "outcome.json").read_text()) == before


def test_a_finished_fit_of_an_older_version_is_read(tmp_path, monkeypatch, capsys):
    """It has two checkpoints, each with the optimizer."""
    words = ["method=ls", "epochs=2"]
    save = FitFolder.save_checkpoint

    def old(folder, steps, groups, state, keep=2, ring=None):
        moments = {"0.exp_avg": torch.zeros(1)}
        return save(folder, steps, {**groups, "optimizer": moments}, state, 2)

    monkeypatch.setattr(FitFolder, "save_checkpoint", old)
    path, _ = fit(tmp_path, *words)
    monkeypatch.undo()
    assert len(FitFolder.open(path).checkpoints()) == 2
    capsys.readouterr()
    fit(tmp_path, *words)
    assert "finished before" in capsys.readouterr().err
