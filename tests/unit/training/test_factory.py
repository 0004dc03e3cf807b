"""Making the parts of a run: methods of critics and actor, start-up notes, agent, trainer."""

import pytest
import torch

from mtrl_fairgrad import FairGrad, make_method, method_names
from mtrl_fairgrad.agents import SAC, SingleTaskSAC
from mtrl_fairgrad.config.agent import ARCHITECTURES
from mtrl_fairgrad.envs.vector_env import TaskVectorEnv
from mtrl_fairgrad.envs.workers.pool import GRACE_SECONDS
from mtrl_fairgrad.gradients.conventions import CONVENTIONS
from mtrl_fairgrad.training import factory
from mtrl_fairgrad.training.factory import (
    make_agent,
    make_learner,
    make_methods,
    methods_by_network,
    startup_notes,
)
from mtrl_fairgrad.training.run_setup import open_folder
from mtrl_fairgrad.utils.validation import ConfigError
from mtrl_fairgrad.weighting import LossWeighting, Weights, registry
from mtrl_fairgrad.weighting.alpha_fair import alpha_fair
from tests.support.errors import refused
from tests.support.tiny_runs import POINT_MASS, POINT_MASS_TASKS, composed

TOGETHER = [name for name in method_names() if name != "stl"]


@pytest.fixture
def positive(monkeypatch):
    """A registered method that needs positive losses."""

    class Positive(LossWeighting):
        name = "positive"
        needs_positive_losses = True

        def __init__(self):
            super().__init__()

        def forward(self, losses, noise=None):
            return Weights(1 / losses, {})

    monkeypatch.setitem(registry._registered, "positive", Positive)
    config = composed("method=ls")
    config.method = {"name": "positive"}
    return config


def build(config):
    return make_agent(config, 2, 6, 4, torch.device("cpu"))


def test_famos_bounds_are_one_for_all_tasks_or_one_for_each():
    for words, bounds in (("-1", -1.0), ("[0.5,-2]", (0.5, -2.0))):
        config = composed("method=famo", f"method.min_loss={words}", "agent.width=8")
        assert build(config).critic_method.min_loss == bounds
    with refused("min_loss", [1.0]):
        build(composed("method=famo", "method.min_loss=[1]", "agent.width=8"))


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_an_agent_whose_actor_can_use_it(name):
    config = composed(f"method={name}", "agent.width=8")
    critic, actor = make_methods(config)
    assert type(critic) is type(make_method(name)) and critic is not actor
    assert actor.name == ("ls" if critic.needs_positive_losses else name)
    assert methods_by_network(config) == {"critic": name, "actor": actor.name}
    assert isinstance(build(config), SingleTaskSAC if name == "stl" else SAC)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_agent_has_its_networks_and_the_options(name):
    agent = build(
        composed(
            f"agent={name}",
            "agent.width=8",
            "agent.critic_width=6",
            "agent.critic_layer_norm=true",
            "agent.initialization=xavier",
            "agent.log_std=tanh",
        )
    )
    assert isinstance(agent, SingleTaskSAC if name == "stl" else SAC)
    config = agent.config
    assert config.name == name
    assert (config.width, config.critic_width, config.critic_layer_norm) == (8, 6, True)
    assert (config.initialization, config.log_std) == ("xavier", "tanh")
    trained = agent.lanes if name == "stl" else agent
    actor, critics = trained.actor, trained.critics
    assert bool(actor.own) == (name == "mhsac") and ("embedding" in critics.own) == (
        name == "mtsac_te"
    )
    assert not any(
        value.any() for key, value in {**actor.shared, **actor.own}.items() if "bias" in key
    )


def test_the_kind_of_temperature_reaches_the_agent():
    assert build(composed("agent.width=8")).config.temperature == "per_task"
    assert (
        build(composed("agent.width=8", "agent.temperature=shared")).config.temperature == "shared"
    )


def test_both_get_the_options():
    for method in make_methods(composed("method=fairgrad", "alpha=1", "method.solver=newton")):
        assert isinstance(method, FairGrad) and (method.alpha, method.solver) == (1.0, "newton")


def test_the_actor_falls_back_to_the_mean_of_losses_and_that_is_noted_once(positive):
    critic, actor = make_methods(positive)
    assert (critic.name, actor.name, actor.reduction) == ("positive", "ls", "mean")
    assert methods_by_network(positive) == {"critic": "positive", "actor": "ls"}
    [note] = startup_notes(positive)
    assert note.startswith("method=positive ") and note.endswith("uses ls")
    assert build(positive).actor_method.name == "ls"


def test_an_ordinary_run_has_no_start_up_notes():
    assert startup_notes(composed()) == [] and startup_notes(composed("method=ls")) == []


def test_loss_alpha_transforms_the_critics_losses_only():
    config = composed("loss_alpha=0.5", "method.solver=newton", "agent.width=8")
    critic, actor = make_methods(config)
    assert type(critic) is type(alpha_fair(FairGrad(), 0.5)) and critic.alpha == 0.5
    assert isinstance(actor, FairGrad) and actor.solver == "newton"
    assert methods_by_network(config) == {
        "critic": "fairgrad with loss_alpha=0.5",
        "actor": "fairgrad",
    }
    [note] = startup_notes(config)
    assert "trained by fairgrad with loss_alpha=0.5;" in note and note.endswith("by fairgrad")
    assert build(config).critic_method is not None


def test_loss_alpha_with_a_method_that_needs_positive_losses_is_one_note(positive):
    positive.loss_alpha = -1.0
    assert methods_by_network(positive) == {"critic": "positive with loss_alpha=-1", "actor": "ls"}
    [note] = startup_notes(positive)
    assert note.endswith("by ls")


@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_convention_reaches_the_agent(name):
    agent = build(composed(f"convention={name}", "agent.width=8"))
    assert agent.convention == CONVENTIONS[name]


def test_a_convention_for_parameters_that_are_not_there_is_noted_as_having_no_effect():
    for agent in ("mtsac", "stl"):
        [note] = startup_notes(composed("convention=libmtl", f"agent={agent}"))
        assert f"agent={agent} " in note and "convention.own=weighted " in note
    for agent in ("mtsac_te", "mhsac"):
        assert startup_notes(composed("convention=libmtl", f"agent={agent}")) == []


def test_libmtl_with_nash_mtl_is_noted_as_not_clipped():
    words = ["method=nash_mtl", "agent=mhsac"]
    [note] = startup_notes(composed("convention=libmtl", *words))
    assert "convention=libmtl_nash_mtl" in note
    assert startup_notes(composed("convention=libmtl_nash_mtl", *words)) == []


@pytest.mark.parametrize("normalize", ["loss", "loss+"])
def test_mgda_that_divides_by_losses_leaves_the_actor_to_ls(normalize):
    critic, actor = make_methods(composed("method=mgda", f"method.normalize={normalize}"))
    assert (critic.name, actor.name) == ("mgda", "ls")
    assert make_methods(composed("method=mgda"))[1].name == "mgda"


# ---- the trainer ----


@pytest.fixture
def run_config(tmp_path):
    config = composed(*POINT_MASS, f"run_dir={tmp_path / 'r'}")
    config.env.tasks = list(POINT_MASS_TASKS)
    return config


@pytest.fixture
def closed(monkeypatch):
    """Roles and grace of the simulators that were closed, in order."""
    log, close = [], TaskVectorEnv.close

    def noted(envs, **options):
        log.append((envs.role, options["grace"]))
        close(envs, **options)

    monkeypatch.setattr(TaskVectorEnv, "close", noted)
    return log


def test_the_rows_that_a_run_will_fill_are_written_before_it_starts(run_config, monkeypatch):
    """Memory that was never written to counts as free, and would be promised to other runs."""

    def unwritten(*arguments):
        learner = make_learner(*arguments)
        learner.replay.rows.fill_(torch.nan)
        return learner

    monkeypatch.setattr(factory, "make_learner", unwritten)
    run_config.steps = run_config.agent.buffer_size // 2
    with factory.make_trainer(run_config, open_folder(run_config, [], "cpu")) as trainer:
        rows = trainer.learner.replay.rows
        assert not rows[: run_config.steps].any() and rows[run_config.steps :].isnan().all()


@pytest.mark.parametrize(
    "part", ["make_learner", "restore_learner", "Logger", "Evaluator", "Trainer"]
)
@pytest.mark.parametrize(
    ("error", "raised", "grace"),
    [
        (ValueError("no such thing"), ConfigError, GRACE_SECONDS),
        (MemoryError("too large"), ConfigError, GRACE_SECONDS),
        (OSError("full"), OSError, GRACE_SECONDS),
        (KeyboardInterrupt(), KeyboardInterrupt, 0.0),
    ],
)
def test_a_failure_half_way_closes_what_was_opened_and_removes_the_new_folder(
    part, error, raised, grace, run_config, closed, monkeypatch
):
    def failing(*arguments, **options):
        raise error

    folder = open_folder(run_config, [], "cpu")
    assert folder.path.is_dir()
    monkeypatch.setattr(factory, part, failing)
    with pytest.raises(raised):
        factory.make_trainer(run_config, folder)
    assert closed == [(role, grace) for role in ("eval", "train")]
    assert not (folder.path / "config.yaml").exists()
    logs = {path.name.partition(".")[0] for path in folder.path.glob("*")}
    assert logs <= {"metrics", "events"}, "what the logger wrote"


def test_a_failure_in_the_second_simulators_closes_the_first(run_config, closed, monkeypatch):
    make_envs = factory.make_envs

    def failing(config, tasks, evaluation, on_lost):
        if evaluation:
            raise ValueError("no second ones")
        return make_envs(config, tasks, evaluation, on_lost)

    folder = open_folder(run_config, [], "cpu")
    monkeypatch.setattr(factory, "make_envs", failing)
    with pytest.raises(ConfigError, match="no second ones"):
        factory.make_trainer(run_config, folder)
    assert closed == [("train", GRACE_SECONDS)]


def test_a_run_that_cannot_be_resumed_keeps_its_folder(run_config, closed, monkeypatch):
    folder = open_folder(run_config, [], "cpu")
    run_config.resume = str(folder.path)
    monkeypatch.setattr(factory, "restore_learner", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        factory.make_trainer(run_config, folder)
    assert folder.path.is_dir() and len(closed) == 2


def test_a_trainer_closes_its_parts_once(run_config, closed):
    with factory.make_trainer(run_config, open_folder(run_config, [], "cpu")) as trainer:
        assert closed == [] and trainer.env_steps == 0 and not trainer.finished
    trainer.resources.close()
    assert closed == [("eval", GRACE_SECONDS), ("train", GRACE_SECONDS)]


def test_the_manifest_keeps_how_the_run_computes(run_config):
    run_config.precision = "bf16"
    kept = open_folder(run_config, [], "cpu").manifest["execution"]
    assert kept == {"cuda_graph": False, "compile": False, "precision": "bf16"}


@pytest.mark.parametrize("name", ["mtsac", "stl"])
def test_the_precision_reaches_the_losses(name):
    agent = build(composed(f"agent={name}", "agent.width=8", "precision=bf16"))
    trained = agent.lanes if name == "stl" else agent
    assert trained.losses.computation.dtype == torch.bfloat16
    with refused("precision", "fp16"):
        SAC(agent.config, 6, 4, [0], 2, FairGrad(), FairGrad(), precision="fp16")
