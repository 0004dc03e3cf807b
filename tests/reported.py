"""What the tests of reports share."""

from mtrl_fairgrad.pooling import pool
from mtrl_fairgrad.runs import RunFolder

TASKS = ["reach-v3", "push-v3"]
FAIRGRAD = {"name": "fairgrad", "alpha": 2.0, "solver": "sgd"}
# {env_steps: [[success per task] per seed]}; means over tasks: seed 0: 0, .8, .5; seed 1: .2, .6, .7.
COURSE = {0: [[0.0, 0.0], [0.4, 0.0]], 500: [[1.0, 0.6], [0.8, 0.4]], 1000: [[0.2, 0.8], [0.6, 0.8]]}
PROTOCOL, METHOD = "mt10 · 2 tasks · horizon 500 · one hot", "fairgrad (α=2, sgd)"


def groups_of(*paths):
    return pool([RunFolder.open(path) for path in paths])
