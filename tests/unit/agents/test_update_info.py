"""Log entries of an update."""

import torch

from mtrl_fairgrad.agents import UpdateInfo
from mtrl_fairgrad.agents.update_info import NetworkUpdate


def test_metrics_are_the_values_of_the_update_under_the_names_of_the_log():
    losses, norm, weights = torch.ones(2, 3), torch.ones(2), torch.full((2, 3), 0.5)
    gramian = torch.eye(3).expand(2, 3, 3)
    critic = NetworkUpdate(losses, norm, {"weights": weights, "gramian": gramian})
    actor = NetworkUpdate(2 * losses, 2 * norm, {"converged": norm > 0})
    metrics = UpdateInfo(3 * losses, critic, 4 * losses, actor, 5 * losses).metrics()
    assert list(metrics) == [
        "temperature",
        "critic/loss",
        "critic/gradient_norm",
        "critic/weights",
        "critic/gramian",
        "critic/value",
        "actor/loss",
        "actor/gradient_norm",
        "actor/converged",
        "entropy",
    ]
    assert metrics["critic/loss"] is losses and metrics["critic/gramian"] is gramian
    assert [float(metrics[name].max()) for name in ("actor/loss", "critic/value", "entropy")] == [
        2,
        4,
        5,
    ]
    assert critic.gramian is gramian and critic.converged is None
    assert actor.gramian is None and actor.converged.all()
