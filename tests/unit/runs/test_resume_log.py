"""The resumes of a run: recorded line by line, and told where versions or machine changed."""

import pytest

from mtrl_fairgrad.runs.manifest import manifest, provenance
from mtrl_fairgrad.runs.resume_log import NAME, add_resume, describe_changes, read_resumes
from mtrl_fairgrad.utils.atomic_io import RunFolderError


def test_each_resume_adds_a_line_and_leaves_the_others(tmp_path):
    assert read_resumes(tmp_path) == []
    here = {**provenance("cpu"), "execution": {"precision": "fp32"}}
    add_resume(tmp_path, here, env_steps=40, steps=80)
    first = (tmp_path / NAME).read_bytes()
    add_resume(tmp_path, here, env_steps=60, steps=100)
    assert (tmp_path / NAME).read_bytes().startswith(first)
    assert read_resumes(tmp_path) == [
        {**here, "env_steps": 40, "steps": 80},
        {**here, "env_steps": 60, "steps": 100},
    ]


def test_a_line_that_was_cut_off_is_replaced(tmp_path):
    add_resume(tmp_path, {}, env_steps=40)
    whole = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(whole + whole[:5])
    add_resume(tmp_path, {}, env_steps=60)
    assert [resume["env_steps"] for resume in read_resumes(tmp_path)] == [40, 60]


@pytest.mark.parametrize(
    "line", [b"[]", b"{", b'{"env_steps": "4"}', b'{"env_steps": -1}', b"[" * 9000, b"\xff"]
)
def test_a_damaged_line_is_refused(line, tmp_path):
    (tmp_path / NAME).write_bytes(line + b"\n")
    with pytest.raises(RunFolderError, match="line 1"):
        read_resumes(tmp_path)


def test_only_what_changed_is_told_and_from_where_on():
    begun = {**manifest([], "cpu"), "git": {"commit": "a", "dirty": False}}
    same = {**provenance("cpu"), "git": begun["git"], "env_steps": 10}
    assert describe_changes(begun, [same, same]) == []
    other = {**same, "env_steps": 20, "git": {"commit": "b", "dirty": False}, "cpus": 1}
    [said] = describe_changes(begun, [same, other, other])
    assert "after env_steps 20" in said and "commit b, before a" in said and "dirty" not in said
    assert len(describe_changes(begun, [other, same])) == 2
    assert describe_changes({}, [other]) == [], "a manifest of an older version lacks entries"
