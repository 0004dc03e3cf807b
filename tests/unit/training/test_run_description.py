"""What TensorBoard's own reader finds of a run beside its mean curves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from mtrl_fairgrad.config.schema import to_dict
from mtrl_fairgrad.runs.metrics_log import read_entries
from mtrl_fairgrad.training.logger import Logger
from mtrl_fairgrad.training.run_description import CHARTS, hyper_parameters
from tests.support.tiny_runs import composed, scalars

CONFIG = composed("env.tasks=[reach-v3,push-v3]", "seeds=[3,14]", "agent.width=17", "alpha=1.5")


def log_run(folder, seeds=(3, 14), first_step=0, resumed=False):
    logger = Logger(folder, ["a", "b"], 10, first_step, resumed, False, None, seeds)
    logger.describe(replace(CONFIG, seeds=list(seeds)), first_step + resumed)
    success = np.array([[1.0, 0.5], [0.0, 0.25]])[: len(seeds)]
    logger.log_evaluation(success, 100 * success, 10 * success, first_step + resumed)
    losses = torch.tensor([[1.0, 2.0], [3.0, 5.0]])[: len(seeds)]
    entries = {"critic/loss": losses, "critic/gradient_norm": losses[:, 0]}
    logger.log_update(entries, first_step + 5, 50.0)
    logger.log_speed(60.0, first_step + 5)
    logger.close()
    return EventAccumulator(str(folder)).Reload()


@pytest.fixture
def events(tmp_path):
    return log_run(tmp_path)


def plugin_content(events, tag):
    return events.SummaryMetadata(tag).plugin_data.content


def test_each_seed_has_curves_of_its_own(events, tmp_path):
    found = scalars(tmp_path)
    own = {tag: entries for tag, entries in found.items() if tag.startswith("seed_")}
    assert own == {
        "seed_3/success_mean": [(0, 0.75)],
        "seed_14/success_mean": [(0, 0.125)],
        "seed_3/success/a": [(0, 1.0)],
        "seed_3/success/b": [(0, 0.5)],
        "seed_14/success/a": [(0, 0.0)],
        "seed_14/success/b": [(0, 0.25)],
        "seed_3/return": [(0, 75.0)],
        "seed_14/return": [(0, 12.5)],
        "seed_3/return_until_success": [(0, 7.5)],
        "seed_14/return_until_success": [(0, 1.25)],
        "seed_3/critic/loss": [(5, 1.5)],
        "seed_14/critic/loss": [(5, 4.0)],
        "seed_3/critic/gradient_norm": [(5, 1.0)],
        "seed_14/critic/gradient_norm": [(5, 3.0)],
    }
    assert found["success_mean/mean"] == [(0, 0.4375)]
    assert not any("seed_" in entry.name for entry in read_entries(tmp_path)), "reports need none"


def test_speeds_of_updates_and_steps_are_shown(events, tmp_path):
    found = scalars(tmp_path)
    assert found["speed/updates_per_second"] == [(5, 50.0)]
    assert found["speed/env_steps_per_second"] == [(5, 60.0)]


def test_the_configuration_is_a_text(events):
    [entry] = events.Tensors("configuration/text_summary")
    text = entry.tensor_proto.string_val[0].decode()
    heading, _, block = text.partition("\n\n")
    assert "torch" in heading and "env_steps 0" in heading
    lines = block.splitlines()
    assert all(line.startswith("    ") for line in lines)
    assert yaml.safe_load("\n".join(line[4:] for line in lines)) == to_dict(CONFIG)


def test_hyper_parameters_are_those_of_tensorboards_plugin(events):
    content = plugin_content(events, "_hparams_/session_start_info")
    data = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert data["agent.width"].number_value == 17 and data["method.alpha"].number_value == 1.5
    assert data["seeds"].string_value == "[3, 14]" and data["method.name"].string_value
    assert "env.workers" not in data and "device" not in data
    content = plugin_content(events, "_hparams_/experiment")
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert {info.name.tag for info in experiment.metric_infos} == {"success_mean/mean"}
    assert {info.name for info in experiment.hparam_infos} == set(hyper_parameters(CONFIG))


def test_a_chart_shows_the_curves_of_all_seeds(events):
    [entry] = events.Tensors("custom_scalars__config__")
    [category] = layout_pb2.Layout.FromString(entry.tensor_proto.string_val[0]).category
    assert [chart.title for chart in category.chart] == list(CHARTS)
    assert list(category.chart[0].multiline.tag) == ["^seed_(3|14)/success_mean$"]


def test_one_seed_needs_no_curves_of_its_own(tmp_path):
    events = log_run(tmp_path, seeds=(3,))
    assert not any("seed_" in tag for tag in events.Tags()["scalars"])
    assert "custom_scalars__config__" not in events.Tags()["tensors"]
    assert "configuration/text_summary" in events.Tags()["tensors"]


def test_an_unknown_return_is_no_curve(tmp_path):
    logger = Logger(tmp_path, ["a"], 10, 0, False, False, None, (0, 1))
    rates = np.ones((2, 1))
    logger.log_evaluation(rates, np.full((2, 1), np.nan), rates, 0)
    logger.close()
    tags = scalars(tmp_path)
    assert not any(tag.endswith("return") or "/return/" in tag for tag in tags)
    assert "return/a" not in tags and tags["return_until_success/a"] == [(0, 1.0)]


def test_a_resumed_run_adds_the_configuration_of_its_part(tmp_path):
    log_run(tmp_path)
    events = log_run(tmp_path, first_step=20, resumed=True)
    assert [entry.step for entry in events.Tensors("configuration/text_summary")] == [0, 21]
    assert [step for step, _ in scalars(tmp_path)["seed_3/success_mean"]] == [0, 21]
