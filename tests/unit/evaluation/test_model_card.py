"""The model card: made of the descriptions alone, its code runs, and no other README is touched."""

import json
import re
import subprocess
import sys

import pytest
import yaml

from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.evaluation.model_card import NAME, write_card
from tests.support.paths import ROOT
from tests.unit.evaluation.test_policy_export import exported, make

PUBLISHED = sorted((ROOT / "results").glob("*/*/*/policies"))


def front_matter(text):
    return yaml.safe_load(text.removeprefix("---\n").partition("\n---\n")[0])


def rows_of(text):
    cells = [
        [cell.strip().replace("\\", "") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_the_code_of_a_card_runs_beside_its_policy(kind, tmp_path):
    exported(make(kind), tmp_path)
    text = write_card(tmp_path).read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    shown = f"{code}\nprint([*actions.shape])"
    command = [sys.executable, "-W", "ignore", "-c", shown]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.stdout == "[1, 4]\n", found.stderr


def test_a_card_has_the_results_of_every_seed(tmp_path):
    for place in (0, 1):
        exported(make("shared"), tmp_path, place)
    text = write_card(tmp_path, "mit").read_text()
    rows = rows_of(text)
    assert rows["task"] == ["seed 4", "seed 7"]
    assert rows["reach-v3"] == ["0.50", "0.50"] and rows["mean"] == ["0.750", "0.750"]
    data = front_matter(text)
    assert data["license"] == "mit" and data["pipeline_tag"] == "reinforcement-learning"
    [model] = data["model-index"]
    assert [result["metrics"][0]["value"] for result in model["results"]] == [0.75, 0.75]
    described = json.loads((tmp_path / "policy-100-seed7.json").read_text())
    assert rows["policy-100-seed7.pt2"][1] == described["program"]["sha256"]


def test_a_card_follows_its_policies_but_another_readme_is_left_alone(tmp_path):
    assert write_card(tmp_path) is None and not (tmp_path / NAME).exists()
    exported(make("shared"), tmp_path, 0)
    assert "One policy" in write_card(tmp_path).read_text()
    exported(make("shared"), tmp_path, 1)
    assert "2 policies" in write_card(tmp_path).read_text()
    (tmp_path / NAME).write_text("# Mine\n")
    assert write_card(tmp_path) is None and (tmp_path / NAME).read_text() == "# Mine\n"


def test_a_description_cannot_write_the_card_itself(tmp_path):
    path = exported(make("shared"), tmp_path)
    evil = "x\n---\n# Not a title\n<script>alert(1)</script> | `y`"
    described = json.loads(path.read_text())
    described["config"]["env"]["name"] = described["protocol"]["in_words"] = evil
    described["training"] |= {"methods": {evil: evil}, "versions": {evil: evil}}
    path.write_text(json.dumps(described))
    text = write_card(tmp_path).read_text()
    assert front_matter(text)["tags"][-1] == " ".join(evil.split())
    _, _, body = text.partition("\n---\n")
    assert body.count("\n# ") == 1 and "<script" not in body.replace("\\<script", "")


def test_a_card_is_not_made_of_a_damaged_description(tmp_path):
    path = exported(make("shared"), tmp_path)
    path.write_text("{}")
    with pytest.raises(ConfigError):
        write_card(tmp_path)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.parent.name)
def test_every_published_policy_is_on_a_card(folder):
    rows = rows_of((folder / NAME).read_text())
    for path in folder.glob("*.json"):
        described = json.loads(path.read_text())
        assert rows[described["program"]["file"]][1] == described["program"]["sha256"]
        column = rows["task"].index(f"seed {described['seed']}")
        for task, rate in described["result"]["success"].items():
            assert rows[task][column] == f"{rate:.2f}"
