"""Exported policies: right where this project cannot be imported, silent about this machine,
refused when damaged.
"""

import io
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from mtrl_fairgrad import LS
from mtrl_fairgrad.agents import SAC, SeedPolicies, SingleTaskSAC
from mtrl_fairgrad.config.agent import ARCHITECTURES, AgentConfig
from mtrl_fairgrad.config.schema import ConfigError
from mtrl_fairgrad.evaluation.policy_export import describe, export, load_policy, scores, to_program
from tests.support.paths import ROOT
from tests.support.tiny_runs import TASKS, TINY, composed

SEEDS, SIZE = (4, 7), 41

STRANGER = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mtrl_fairgrad", "agents", "envs", "hydra", "omegaconf"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
try:
    import mtrl_fairgrad
except ImportError:
    pass
else:
    raise SystemExit("the project can be imported, so this shows nothing")
"""
ALONE = """
import hashlib, json, pathlib, numpy, torch
inputs, actions = numpy.load("inputs.npz"), {}
for path in map(pathlib.Path, sys.argv[1:]):
    description = json.loads(path.read_text())
    program = path.with_name(description["program"]["file"])
    assert hashlib.sha256(program.read_bytes()).hexdigest() == description["program"]["sha256"]
    policy = torch.export.load(program).module()
    for rows in (1, 2, 7, 200):
        given = [torch.from_numpy(inputs[each["name"]][:rows]) for each in description["inputs"]]
        actions[f"{path.parent.name} {rows}"] = policy(*given).numpy()
numpy.savez("actions.npz", **actions)
"""


def run_alone(code, folder, *arguments):
    """Run Python where neither this checkout nor an installed copy can be imported."""
    command = [sys.executable, "-I", "-W", "ignore", "-c", STRANGER + code, *map(str, arguments)]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout


def make(kind, normalization="none", width=32, **options):
    """An agent that is not what it was initialised to, with actions well away from zero."""
    name = kind if kind in ARCHITECTURES else "mtsac"
    config = AgentConfig(
        name, width=width, depth=2, observation_normalization=normalization, **options
    )
    if kind == "own":
        agent = SingleTaskSAC(config, SIZE, 4, SEEDS, 2, identity=2)
    else:
        agent = SAC(config, SIZE, 4, SEEDS, 2, LS(), LS(), identity=2)
    learner = agent.lanes if kind == "own" else agent
    generator = torch.Generator().manual_seed(0)
    for value in (*learner.actor.shared.values(), *learner.actor.own.values()):
        value.copy_(torch.randn(value.shape, generator=generator) * value.shape[-1] ** -0.5)
    return agent


def seed_policies(agent):
    """What evaluations of a run act by."""
    return SeedPolicies(module.act for module in agent.policy_modules())


def exported(agent, folder, place=1):
    folder.mkdir(exist_ok=True)
    config = composed(*TINY, f"seeds=[{SEEDS[0]},{SEEDS[1]}]", "run_dir=/somewhere/secret")
    config.agent.observation_normalization = agent.config.observation_normalization
    spaces = (Box(-np.inf, np.inf, (SIZE,), np.float32), Box(-1.0, 1.0, (4,), np.float32))
    result = scores(tuple(TASKS), np.array([[True, False], [True, True]]))
    description = describe(
        config,
        SEEDS[place],
        spaces,
        {"env_steps": 100},
        {"success": "any step", "in_words": "mt10"},
        result,
    )
    program = to_program(agent.policy_modules()[place], SIZE)
    return export(program, description, folder)


def test_the_same_actions_where_the_project_cannot_be_imported(tmp_path):
    agents = {kind: make(kind) for kind in ("shared", "own", "mhsac", "mtsac_te")}
    paths = [exported(agent, tmp_path / kind) for kind, agent in agents.items()]
    observations = np.random.default_rng(0).normal(size=(200, SIZE)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", observations=observations, tasks=np.arange(200) % 2)
    run_alone(ALONE, tmp_path, *paths)
    pairs, found = (
        torch.from_numpy(observations).view(100, 2, SIZE),
        np.load(tmp_path / "actions.npz"),
    )
    assert len(found) == 16
    for name, actions in found.items():
        kind, rows = name.split()
        expected = torch.cat(
            [agents[kind].act(pair.expand(len(SEEDS), -1, -1))[1] for pair in pairs]
        ).numpy()
        assert np.abs(expected).mean() > 0.1
        assert actions.dtype == np.float32 and actions.shape == (int(rows), 4)
        assert np.abs(actions - expected[: int(rows)]).max() <= 1e-6, name


@pytest.mark.parametrize("network", ["mlp", "bronet"])
@pytest.mark.parametrize("kind", ["shared", "own", "mhsac", "mtsac_te"])
def test_a_program_returns_every_bit_of_the_actions_that_evaluations_take(kind, network, tmp_path):
    """Rounding that differs would be amplified by contacts until a success becomes a failure.

    Observations that are not normalised reach the first product where they lie in memory.
    """
    agent = make(kind, width=256, network=network)
    observations = torch.randn(20, len(SEEDS), 2, SIZE)
    of_run = seed_policies(agent)
    for place in range(len(SEEDS)):
        program = SeedPolicies([load_policy(exported(agent, tmp_path, place)).act])
        for each in observations:
            given, expected = each[place : place + 1], of_run(each)[place]
            assert torch.equal(program(given)[0], expected)
            assert torch.equal(program(given.clone())[0], expected)


def test_actions_of_evaluations_depend_neither_on_threads_nor_on_where_observations_lie():
    config = AgentConfig("mtsac", width=400, depth=3)
    agent = SAC(config, SIZE, 4, SEEDS, 10, LS(), LS(), identity=2)
    of_run, memory = seed_policies(agent), torch.randn(len(SEEDS) * 10 * SIZE + 3)
    before = torch.get_num_threads()
    try:
        for start in range(4):
            rows = memory[start:][: len(SEEDS) * 10 * SIZE].view(len(SEEDS), 10, SIZE)
            found = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found += [of_run(rows), of_run(rows.clone())]
                assert torch.get_num_threads() == threads
            assert all(torch.equal(each, found[0]) for each in found)
    finally:
        torch.set_num_threads(before)


def test_a_network_that_cannot_be_exported_is_refused():
    class Tied(torch.nn.Module):
        needs_tasks = False

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(SIZE, 4))

        def forward(self, observations):
            assert len(observations) == 2
            return observations @ self.weight

    with pytest.raises(ConfigError, match=r"agent\.network cannot be exported"):
        to_program(Tied(), SIZE)


def test_the_description_says_what_goes_in_and_comes_out(tmp_path):
    text = exported(make("own"), tmp_path).read_text()
    found = json.loads(text)
    observations, tasks = found["inputs"]
    assert (observations["dtype"], observations["shape"]) == ("float32", ["rows", SIZE])
    assert {"name": "task_one_hot", "slice": [39, 41], "metaworld": None} in observations["layout"]
    assert (tasks["name"], tasks["dtype"]) == ("tasks", "int64")
    assert found["output"]["low"] == [-1.0] * 4 and found["output"]["high"] == [1.0] * 4
    assert found["tasks"] == TASKS and found["seed"] == 7 and found["training"]["env_steps"] == 100
    assert found["protocol"]["horizon"] == 20 and found["protocol"]["success"] == "any step"
    assert found["result"] == {
        "goals": 2,
        "success": {"reach-v3": 0.5, "drawer-close-v3": 1.0},
        "mean": 0.75,
    }
    assert found["config"]["seeds"] == [7] and found["exported_with"]["torch"] == torch.__version__
    assert '"slice": [ 0, 3 ]' in text, "numbers stay on one line"
    shared = json.loads(exported(make("shared"), tmp_path).read_text())
    assert [each["name"] for each in shared["inputs"]] == ["observations"]


def test_nothing_in_the_files_tells_of_this_machine_or_needs_private_operators(tmp_path):
    path = exported(make("own"), tmp_path)
    archive = zipfile.ZipFile(path.with_suffix(".pt2"))
    content = b"".join(
        archive.read(name) for name in archive.namelist() if "/weights/weight_" not in name
    )
    for place in (str(ROOT), str(Path.home()) + "/", sys.prefix, str(tmp_path), ".py", "somewhere"):
        assert place.encode() not in content and place not in path.read_text(), place
    targets = set(re.findall(rb'"target": "([\w.]+)"', archive.read("archive/models/model.json")))
    assert targets and all(t.startswith((b"torch.ops.aten.", b"_operator.")) for t in targets), (
        targets
    )


def test_exporting_twice_gives_the_same_bytes(tmp_path):
    agent = make("own")
    first = exported(agent, tmp_path).with_suffix(".pt2").read_bytes()
    assert exported(agent, tmp_path).with_suffix(".pt2").read_bytes() == first


def test_it_is_loaded_by_either_of_its_files(tmp_path):
    for kind in ("shared", "own"):
        agent = make(kind)
        path = exported(agent, tmp_path)
        observations = torch.randn(2, 2, SIZE)
        for name in (path, path.with_suffix(".pt2")):
            actions = load_policy(name).act(observations[1])
            torch.testing.assert_close(actions, agent.act(observations)[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_a_policy_with_normalised_observations_takes_them_as_they_are(kind, tmp_path):
    agent, generator = make(kind, "running"), torch.Generator().manual_seed(0)
    drawn = torch.randn(50, 2, 4, 2, SIZE, generator=generator) * 3 + 5
    for step in drawn:
        agent.observe(step)
    path, raw = exported(agent, tmp_path), drawn[0, :, 0]
    expected = agent.act(raw)[1]
    torch.testing.assert_close(load_policy(path).act(raw[1]), expected, rtol=0, atol=1e-6)
    program = SeedPolicies([load_policy(path).act])
    assert torch.equal(program(raw[1:])[0], seed_policies(agent)(raw)[1])
    agent.observe(10 * drawn[0])
    assert not torch.allclose(agent.act(raw)[1], expected), "statistics matter"
    observations = json.loads(path.read_text())["inputs"][0]
    assert "normalizes" in observations["meaning"] and "mean" not in observations


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _change(key, value):
    def damage(path):
        path = path.with_suffix(".json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, r"policy-100-seed7.pt2 is damaged \(SHA-256 mismatch"),
        (lambda program: program.write_bytes(program.read_bytes()[:-100]), "is damaged"),
        (lambda program: program.unlink(), r"policy-100-seed7.pt2 cannot be read \(No such file"),
        (
            lambda program: program.with_suffix(".json").unlink(),
            r"policy-100-seed7.json cannot be read",
        ),
        (
            lambda program: program.with_suffix(".json").write_text("{"),
            "not a description of a policy",
        ),
        (
            lambda program: program.with_suffix(".json").write_text("[1]"),
            "not a description of a policy",
        ),
        (_change("format", "mtrl-fairgrad policy 2"), "in the format 'mtrl-fairgrad policy 1'"),
    ],
)
def test_damage_is_found_before_anything_is_loaded(damage, said, tmp_path, monkeypatch):
    path = exported(make("shared"), tmp_path)
    damage(path.with_suffix(".pt2"))
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ConfigError, match=said) as caught:
        load_policy(path)
    assert str(caught.value).count(". ") == 0, "one sentence"


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """One whose program takes observations alone, and one that also takes tasks."""
    folder = tmp_path_factory.mktemp("policies")
    return {kind: exported(make(kind), folder / kind) for kind in ("shared", "own")}


def changed(path, folder, key, value):
    """Copy a policy with another value at a dotted key of its description."""
    description = json.loads(path.read_text())
    place, *names = description, *key.split(".")
    for name in names[:-1]:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(names[-1]) if isinstance(place, list) else names[-1]] = value
    (folder / path.with_suffix(".pt2").name).write_bytes(path.with_suffix(".pt2").read_bytes())
    (folder / path.name).write_text(json.dumps(description))
    return folder / path.name


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("program", [], "program"),
        ("program.file", "../policy-100-seed7.pt2", "program.file"),
        ("program.file", "..", "program.file"),
        ("program.file", "a\0.pt2", "program.file"),
        ("program.file", "\ud800.pt2", "program.file"),
        ("program.bytes", float("inf"), "program.bytes"),
        ("program.sha256", None, "program.sha256"),
        ("inputs", [], "inputs"),
        ("inputs.0", 3, "inputs[0]"),
        ("inputs.0.name", "tasks", "inputs"),
        ("inputs.0.dtype", "float64", "observations.dtype"),
        ("inputs.0.shape", ["rows"], "observations.shape"),
        ("inputs.0.shape", ["rows", 0], "observations.shape"),
        ("inputs.0.shape", ["rows", 10**12], "observations.shape"),
        ("output", None, "output"),
        ("output.shape", [4], "actions.shape"),
        ("tasks", "reach-v3", "tasks"),
        ("tasks", [], "tasks"),
        ("tasks", TASKS[:1], "config.env.tasks"),
        ("tasks", TASKS[::-1], "config.env.tasks"),
        ("seed", 3, "config.seeds"),
        ("seed", "7", "seed"),
        ("protocol", {}, "protocol.in_words"),
        ("result.goals", -1, "result.goals"),
        ("result.success", {"reach-v3": 0.5}, "result.success"),
        ("result.success.reach-v3", 7, "result.success.reach-v3"),
        ("training.env_steps", [], "training.env_steps"),
        ("config", 3, "config"),
        ("config.env", [], "config.env.tasks"),
        ("exported_with", {"torch": 2}, "exported_with.torch"),
    ],
)
def test_a_description_whose_parts_disagree_is_refused_by_its_key(
    key, value, named, policies, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("loaded"))
    path = changed(policies["shared"], tmp_path, key, value)
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert caught.value.key == named and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("shared", "inputs.0.shape", ["rows", SIZE - 1]),
        ("shared", "output.shape", ["rows", 5]),
        ("own", "inputs", [{"name": "observations", "dtype": "float32", "shape": ["rows", SIZE]}]),
    ],
)
def test_a_program_that_differs_from_its_description_is_refused(
    kind, key, value, policies, tmp_path
):
    with pytest.raises(ConfigError, match="copy both files again, or export again") as caught:
        load_policy(changed(policies[kind], tmp_path, key, value))
    assert "\n" not in str(caught.value)


def test_a_program_of_another_pytorch_is_refused_in_one_sentence(tmp_path, monkeypatch):
    path = exported(make("shared"), tmp_path)
    monkeypatch.setattr(torch.export, "load", lambda *_: torch.load(io.BytesIO(b"")))
    with pytest.raises(
        ConfigError, match=f"use PyTorch {re.escape(torch.__version__)}, with which it was exported"
    ):
        load_policy(path)
