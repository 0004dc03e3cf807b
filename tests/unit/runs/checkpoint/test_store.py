import errno
import hashlib
import json
import os
import random
import signal
import time

import pytest
import torch

from mtrl_fairgrad.runs.checkpoint import index, store
from mtrl_fairgrad.runs.run_dir import CheckpointError, RunFolder, RunFolderError
from mtrl_fairgrad.utils.arguments import fail
from tests.support.sample_run import CONFIG, GROUPS, Rows, fork, one_sentence, rows


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", CONFIG, {"overrides": ["alpha=2"]})


def same(left, right):
    assert left.keys() == right.keys()
    for key, tensor in left.items():
        assert tensor.dtype == right[key].dtype and tensor.shape == right[key].shape
        assert torch.equal(tensor.nan_to_num(), right[key].nan_to_num())
    return True


def test_tensors_of_every_kind_come_back(folder):
    base = torch.arange(12.0).reshape(3, 4)
    agent = {
        "float64": torch.tensor([1e-300, torch.nan, torch.inf], dtype=torch.float64),
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "uint8": torch.arange(256).to(torch.uint8),
        "int64": torch.tensor(-(2**62)),
        "empty": torch.zeros(0, 3),
        "empty_too": torch.zeros(0),
        "whole": base,
        "alias": base,
        "transposed": base.T,
        "slice": base[1:, 2:],
        "row": base[1],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "expanded": torch.ones(1).expand(4),
    }
    state = {"rng": 2**80, "nested": {"a": [1.5, None, True]}, "α": "ü"}
    folder.save_checkpoint(500, {"agent": agent, "none": {}}, state)
    found = RunFolder.open(folder.path).load_checkpoint()
    assert found.env_steps == 500 and found.state == state
    assert found.groups.keys() == {"agent", "none"}
    assert same({key: tensor.detach() for key, tensor in agent.items()}, found.groups["agent"])


def test_loaded_tensors_do_not_hang_on_the_file(folder):
    path = folder.save_checkpoint(500, GROUPS, {})
    found = folder.load_checkpoint()
    (path / "agent.safetensors").write_bytes(b"")
    assert same(found.groups["agent"], GROUPS["agent"])
    found.groups["agent"]["w"].add_(1)  # and may be written to


def test_nothing_but_safetensors_and_json_is_stored(folder):
    path = folder.save_checkpoint(500, GROUPS, {"n": 1})
    names = {file.name for file in path.iterdir()}
    assert names == {"agent.safetensors", "replay.safetensors", "state.json", "index.json"}
    with pytest.raises(TypeError):
        folder.save_checkpoint(600, {}, {"tensor": torch.ones(1)})
    assert {file.name for file in (folder.path / "checkpoints").iterdir()} == {
        path.name,
        "segments",
    }


def test_a_disk_that_fails_is_named_where_nothing_is_damaged(folder, monkeypatch, capsys):
    def fail_to_read(*arguments, **keywords):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder.save_checkpoint(500, GROUPS, {})
    for name in ("content_of", "read_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(index, name, fail_to_read)
            with pytest.raises(CheckpointError) as error:
                folder.load_checkpoint()
        assert one_sentence(error) and "check the disk" in str(error.value)
        assert "from a copy" not in str(error.value) and fail(error.value) == 1


def test_only_the_newest_are_kept(folder):
    steps = (500, 1000, 99_999_999_999_999)
    for n, env_steps in enumerate(steps):
        folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps})
        assert [path.name for path in folder.checkpoints()] == [
            f"{s:012d}" for s in steps[n::-1][:2]
        ]
    assert folder.load_checkpoint().state == {"at": 99_999_999_999_999}


def test_fewer_or_more_are_kept_on_request(folder):
    for keep, env_steps in ((1, 500), (2, 1000), (1, 1500), (3, 2000), (3, 2500)):
        folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps}, keep)
        assert len(folder.checkpoints()) == {500: 1, 1000: 2, 1500: 1, 2000: 2, 2500: 3}[env_steps]
    assert [path.name for path in folder.checkpoints()] == [
        "000000002500",
        "000000002000",
        "000000001500",
    ]
    assert folder.load_checkpoint(2000).state == {"at": 2000}
    with pytest.raises(
        CheckpointError, match="no checkpoint at env_steps=500: choose from 2500, 2000, 1500"
    ) as error:
        folder.load_checkpoint(500)
    assert one_sentence(error)


def test_a_second_checkpoint_at_the_same_step_counts(folder):
    for attempt in range(12):
        folder.save_checkpoint(500, GROUPS, {"attempt": attempt}, keep=2)
        assert (
            folder.load_checkpoint().state
            == folder.load_checkpoint(500).state
            == {"attempt": attempt}
        )
    assert len(folder.checkpoints()) == 2


def test_only_the_groups_asked_for_are_read(folder):
    path = folder.save_checkpoint(500, GROUPS, {"n": 1})
    (path / "replay.safetensors").write_bytes(b"damaged")
    found = folder.load_checkpoint(groups=["agent"])
    assert found.groups.keys() == {"agent"} and found.state == {"n": 1}
    with pytest.raises(CheckpointError, match="replay"):
        folder.load_checkpoint()
    with pytest.raises(CheckpointError, match="not all of critic"):
        folder.load_checkpoint(groups=["critic"])


def test_a_run_without_a_checkpoint_says_so(folder):
    with pytest.raises(
        CheckpointError, match="no checkpoint: it ended before its first one"
    ) as error:
        folder.load_checkpoint()
    assert one_sentence(error)


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(folder, caplog):
    folder.save_checkpoint(500, GROUPS, {"at": 500})
    newest = folder.save_checkpoint(1000, GROUPS, {"at": 1000})
    (newest / "replay.safetensors").write_bytes(b"")
    assert folder.load_checkpoint().state == {"at": 500}
    again = RunFolder.open(folder.path)
    found = again.resume_checkpoint(GROUPS)
    assert found.env_steps == 500 and found.state == {"at": 500}
    assert (
        "replay.safetensors is damaged (0 bytes long, not 96); going back 500 steps" in caplog.text
    )
    # The course goes on from 500; what it saves before, at or after 1000 must not lose against the
    # damaged one.
    for env_steps in (750, 1000, 1250):
        again.save_checkpoint(env_steps, GROUPS, {"at": env_steps, "again": True})
        assert folder.load_checkpoint().state == {"at": env_steps, "again": True}
    assert [path.name for path in folder.checkpoints()] == ["000000001250", "000000001000"]


def test_a_course_that_was_given_up_leaves_no_checkpoints(folder):
    """A run resumes from an earlier checkpoint, and goes on past where it ended."""
    for env_steps in (500, 1000):
        folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps})
    again = RunFolder.open(folder.path)
    assert again.resume_checkpoint(GROUPS, env_steps=500).state == {"at": 500}
    assert len(again.checkpoints()) == 2, "looking for a place to go on removes nothing"
    again.save_checkpoint(1500, GROUPS, {"at": 1500})
    assert [path.name for path in again.checkpoints()] == ["000000001500", "000000000500"]


# ---- what is there against what is needed ----


def test_a_checkpoint_of_something_else_is_refused_before_it_is_read(folder, monkeypatch):
    folder.save_checkpoint(500, GROUPS, {})
    monkeypatch.setattr("safetensors.torch.load", lambda data: pytest.fail("it was read"))
    for like, said in (
        ({"agent": {"w": torch.zeros(3, 2)}}, r"agent/w is F32 \[2, 3\], not F32 \[3, 2\]"),
        ({"agent": {"w": torch.zeros(2, 3).double()}}, r"agent/w is F32 \[2, 3\], not F64"),
        ({"agent": {"v": torch.zeros(2, 3)}}, r"agent/v is missing, not F32 \[2, 3\]"),
        ({"critic": {}}, "it has no critic"),
    ):
        with pytest.raises(RunFolderError, match=f"does not fit this run .{said}") as error:
            folder.resume_checkpoint(like)
        assert not isinstance(error.value, CheckpointError) and one_sentence(error)


def test_a_checkpoint_far_larger_than_the_learner_is_refused_before_it_is_read(folder, monkeypatch):
    folder.save_checkpoint(500, {"agent": {"w": torch.zeros(2, 3), "more": torch.zeros(10**6)}}, {})
    monkeypatch.setattr("safetensors.torch.load", lambda data: pytest.fail("it was read"))
    with pytest.raises(RunFolderError, match=r"it holds 4000\d+ bytes, but 24 are needed"):
        folder.resume_checkpoint({"agent": {"w": torch.zeros(2, 3)}})


def test_other_tensors_may_take_the_bytes_that_are_allowed_for_them(folder):
    groups = {**GROUPS, "simulators": {"actions": torch.zeros(2**20)}}
    folder.save_checkpoint(500, groups, {})
    with pytest.raises(RunFolderError, match="bytes"):
        folder.resume_checkpoint(GROUPS)
    found = folder.resume_checkpoint(GROUPS, extra_bytes=2**22)
    assert found.groups["simulators"]["actions"].shape == (2**20,)


@pytest.mark.parametrize("file", ["state", "index"])
def test_what_could_not_be_read_again_is_not_written_and_the_one_before_stays(
    folder, monkeypatch, file
):
    folder.save_checkpoint(500, GROUPS, {"at": 500})
    before = sorted(folder.path.rglob("*"))
    size = (folder.checkpoints()[0] / f"{file}.json").stat().st_size
    for module in (index, store):
        monkeypatch.setattr(module, "LARGEST", size + 20)
    long = {"state": {"at": "x" * 50}, "index": {"at": 1000}}[file]
    groups = {**GROUPS, **({"more": GROUPS["agent"]} if file == "index" else {})}
    with pytest.raises(CheckpointError) as caught:
        folder.save_checkpoint(1000, groups, long, keep=1)
    assert one_sentence(caught)
    assert sorted(folder.path.rglob("*")) == before
    monkeypatch.undo()
    assert folder.resume_checkpoint(GROUPS).env_steps == 500


def test_a_checkpoint_of_the_format_before_says_so(folder):
    path = folder.save_checkpoint(500, GROUPS, {})
    (path / "index.json").rename(path / "checksums.json")
    with pytest.raises(CheckpointError, match="was written by an older version") as error:
        folder.load_checkpoint()
    assert one_sentence(error)


def forged(path, change):
    """Change an index and give it the digest that it then needs."""
    found = json.loads((path / "index.json").read_bytes())
    change(found["index"])
    text = json.dumps(found["index"], indent=1, sort_keys=True).encode() + b"\n"
    found["sha256"] = hashlib.sha256(text).hexdigest()
    (path / "index.json").write_bytes(json.dumps(found, indent=1, sort_keys=True).encode() + b"\n")


def segment(**changes):
    return lambda index: index["ring"]["segments"][0].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(format=3),
        lambda index: index["files"].update(
            {"../../../secret.safetensors": index["files"]["state.json"]}
        ),
        lambda index: index["files"].update({"agent.pt": index["files"]["state.json"]}),
        lambda index: index["beside"].update({"../other": index["files"]["state.json"]}),
        lambda index: index["files"]["state.json"].update(bytes=2**40),
        lambda index: index["files"]["state.json"].update(sha256="../x"),
        lambda index: index["files"]["state.json"].update(bytes=float("inf")),
        lambda index: index["files"].update({"state.json": 3}),
        lambda index: index.update(beside=[]),
        lambda index: index["ring"].update(added=float("inf")),
        lambda index: index["ring"].update(shape=[]),
        lambda index: index["ring"].update(shape=[float("inf"), 2]),
        lambda index: index["ring"].update(added=7),
        lambda index: index["ring"].update(shape=[0, 2]),
        lambda index: index["ring"].update(dtype="object"),
        segment(start=2),
        segment(stop=10**12),
        segment(sha256="../../x"),
        lambda index: index["ring"]["segments"].clear(),
        lambda index: index.pop("files"),
    ],
)
def test_a_forged_index_leads_nowhere(folder, change):
    ring = Rows(4, 2)
    ring.add(1, 2, 3)
    path = folder.save_checkpoint(500, GROUPS, {}, ring=ring)
    forged(path, lambda index: None)
    assert folder.resume_checkpoint(GROUPS, Rows(4, 2)).env_steps == 500
    forged(path, change)
    with pytest.raises(CheckpointError, match=r"is invalid|another version"):
        folder.resume_checkpoint(GROUPS, Rows(4, 2))


def test_going_on_needs_the_evaluations_that_the_checkpoint_knew(folder, caplog):
    folder.append_evaluation(rows(0))
    folder.save_checkpoint(500, GROUPS, {"at": 500})
    folder.append_evaluation(rows(500))
    folder.save_checkpoint(1000, GROUPS, {"at": 1000})
    file = folder.path / "evaluations.csv"
    whole = file.read_bytes()
    file.write_bytes(whole + b"1000,")  # torn by a kill, later
    assert RunFolder.open(folder.path).resume_checkpoint(GROUPS).env_steps == 1000
    file.write_bytes(whole[:-40])
    assert RunFolder.open(folder.path).resume_checkpoint(GROUPS).env_steps == 500
    assert "evaluations.csv does not begin as it did when the checkpoint was made" in caplog.text
    file.write_bytes(whole.replace(b"0.1", b"0.7"))
    with pytest.raises(
        CheckpointError, match=r"evaluations\.csv does not begin as it did"
    ) as error:
        RunFolder.open(folder.path).resume_checkpoint(GROUPS)
    assert one_sentence(error) and folder.load_checkpoint().env_steps == 1000, (
        "it can still be looked at"
    )


# ---- kills ----


def test_what_a_killed_process_left_is_no_checkpoint_and_is_swept_by_the_next(folder):
    path = folder.save_checkpoint(500, GROUPS, {"at": 500})
    partial = path.parent / ".000000001000.tmp"
    partial.mkdir()
    (partial / "agent.safetensors").write_bytes((path / "agent.safetensors").read_bytes()[:9])
    (folder.path / ".evaluations.csv.tmp").write_text("env_st")
    again = RunFolder.open(folder.path)
    assert again.load_checkpoint().state == {"at": 500}
    assert partial.exists()  # someone who only reads leaves it to the writer
    with again.lock():
        assert partial.exists()
        again.clean()
        assert not partial.exists() and not (folder.path / ".evaluations.csv.tmp").exists()
    assert again.load_checkpoint().state == {"at": 500}


def write_for_ever(path, first):
    torch.set_num_threads(1)
    folder = RunFolder.open(path)
    with folder.lock():
        for env_steps in range(first, first + 10**6):
            folder.append_evaluation(rows(env_steps))
            folder.save_checkpoint(env_steps, GROUPS, {"at": env_steps}, keep=1 + env_steps % 2)


def test_killed_at_any_moment_the_folder_resumes_without_gap_or_double_row(folder):
    luck, reached = random.Random(0), 0
    for _ in range(15):
        writer = fork.Process(target=write_for_ever, args=(folder.path, reached + 1))
        writer.start()
        while max((int(path.name) for path in folder.checkpoints()), default=0) <= reached:
            assert writer.is_alive()  # however slow the machine is, it gets on
            time.sleep(0.005)
        time.sleep(luck.uniform(0, 0.1))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        again = RunFolder.open(folder.path)
        with again.lock():
            found = again.load_checkpoint() if again.has_checkpoint() else None
            if found is not None:
                assert found.state == {"at": found.env_steps} and same(
                    found.groups["agent"], GROUPS["agent"]
                )
                assert found.env_steps >= reached
                reached = found.env_steps
            for path in again.checkpoints():  # nothing half-written or half-removed passes for one
                assert again.load_checkpoint(int(path.name)).env_steps == int(path.name)
            again.rewind(found)
        steps = [row.env_steps for row in again.evaluations()]
        assert steps == [step for step in range(1, reached + 1) for _ in range(2)]
    assert reached >= 15
