"""Files that others made run no code: nowhere is anything unpickled that is read from a file."""

import ast
import pickle
from pathlib import Path

import pytest
import torch

from mtrl_fairgrad.supervised.benchmark import DataError
from mtrl_fairgrad.supervised.benchmarks.qm9 import QM9
from tests.support.paths import ROOT

SOURCES = [
    path
    for folder in ("mtrl_fairgrad", "scripts", "examples")
    for path in (ROOT / folder).rglob("*.py")
]
NO_PICKLE = ("allow_pickle", False)
KEYWORD = {"torch.load": ("weights_only", True), "read_array": NO_PICKLE, "np.load": NO_PICKLE}
NEVER = (
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "joblib.load",
    "yaml.load",
    "eval",
    "exec",
)
OWN_WORKERS = [(ROOT / "mtrl_fairgrad" / "envs" / "workers" / "wire.py", "pickle.loads")]
"""Reads from a pipe that no other process holds."""


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield (
                ast.unparse(node.func),
                {each.arg: ast.unparse(each.value) for each in node.keywords},
            )


def test_the_project_unpickles_nothing():
    seen = 0
    for path in SOURCES:
        for name, given in calls(path):
            assert name not in NEVER or (path, name) in OWN_WORKERS, f"{path} calls {name}"
            for ending, (keyword, value) in KEYWORD.items():
                if name == ending or name.endswith(f".{ending}"):
                    assert given.get(keyword) == str(value), (
                        f"{path}: {name} without {keyword}={value}"
                    )
                    seen += 1
            # The one exception, told wherever policies are told of.
            assert name != "torch.export.load" or path.name in (
                "policy_export.py",
                "drive_exported_policy.py",
            ), path
    assert seen >= 2


class Mine:
    """Runs code when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize(
    "made_by", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))]
)
def test_a_strangers_molecules_run_no_code(tmp_path, made_by):
    pytest.importorskip("torch_geometric")
    mark, folder = tmp_path / "ran", tmp_path / "processed"
    folder.mkdir()
    made_by((Mine(mark), {}, None), folder / "data_v3.pt")
    with pytest.raises(DataError, match=r"data_v3\.pt is damaged"):
        QM9(tmp_path).splits(0, 2, 0, False)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Mine(mark)))
    assert mark.exists(), "it would have"
