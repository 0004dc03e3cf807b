import re
import subprocess
import sys

import pytest

from mtrl_fairgrad.envs.task_names import MT10, MT50, resolve_tasks, step_cost


def test_suites_are_metaworlds():
    from metaworld.env_dict import MT10_V3, MT50_V3

    assert tuple(MT10_V3) == MT10
    assert tuple(MT50_V3) == MT50


def test_names_need_no_heavy_import():
    program = (
        "import sys; from mtrl_fairgrad import envs; envs.resolve_tasks('mt10')\n"
        "print(sorted({'numpy', 'gymnasium', 'metaworld', 'mujoco', 'torch'} & set(sys.modules)))\n"
        "import mtrl_fairgrad.envs.vector_env, mtrl_fairgrad.envs.evaluation\n"
        "print(sorted({'metaworld', 'mujoco', 'torch', 'mtrl_fairgrad.agents'} & "
        "set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["[]", "[]"]


def test_every_exported_name_exists():
    from mtrl_fairgrad import envs

    assert all(getattr(envs, name) is not None for name in dir(envs))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = envs.no_such_name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("mt10",), MT10),
        (("mt50",), MT50),
        (("mt10", ["window-close-v3", "reach-v3"]), ("window-close-v3", "reach-v3")),
        (("mt50", ["soccer-v3"]), ("soccer-v3",)),
        (("mt1", None, "soccer-v3"), ("soccer-v3",)),
    ],
)
def test_resolves(arguments, expected):
    assert resolve_tasks(*arguments) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mt100",), "env='mt100' is not known: choose mt10 (closest), or one of mt10, mt50, mt1."),
        (("mt1",), "add env.task=NAME"),
        (("mt1", ["reach-v3"]), "give it as env.task=reach-v3"),
        (
            ("mt1", None, "reech-v3"),
            "'reech-v3' is not one of Metaworld's: choose reach-v3 (closest)",
        ),
        (("mt10", None, "reach-v3"), "use env.tasks=[reach-v3], or env=mt1"),
        (("mt10", []), "env.tasks=[] leaves nothing to train on"),
        (("mt10", "reach-v3"), "write env.tasks=[reach-v3]"),
        (("mt10", ["reach-v3", "push-v3", "reach-v3"]), "names 'reach-v3' 2 times"),
        (("mt10", ["soccer-v3"]), "'soccer-v3' is not in mt10"),
        (("mt10", ["reach"]), "choose reach-v3 (closest)"),
        (("mt50", ["window-opn-v3"]), "choose window-open-v3 (closest)"),
        (("mt10", ["qqqq"]), "'qqqq' is not one of Metaworld's: choose one of reach-v3, push-v3"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        resolve_tasks(*arguments)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_slow_tasks_are_tasks():
    assert [sum(step_cost(task) > cost for task in MT50) for cost in (1, 1.5)] == [24, 4]
