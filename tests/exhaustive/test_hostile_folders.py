"""Run folders from somebody else: links, pipes, giants, damage of every kind.

Whatever a folder holds, every command ends with code 0, 1 or 2 and one sentence, in little time and
memory, and no file outside the run is read into a result, changed or made.

HOSTILE_EXAMPLES=2000 tries more of them.
"""

import copy
import json
import os
import random

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.fuzzing import FILES, HARD, damaged
from tests.support.hostile_folders import (
    COMMANDS,
    PLANTED,
    ask,
    faults_of,
    is_editable,
    make_sample,
    parts_of,
    plant,
    prepare,
    remove,
    sign,
    snapshot,
    temporary_names,
    traces_outside,
    write_index,
)

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "150"))
"""Folders tried, of all kinds together."""
LINKS = [kind for kind in PLANTED if "link" in kind]


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "run"
    make_sample(folder)
    return folder


@pytest.fixture(scope="module")
def usual(sample, tmp_path_factory):
    """What the commands answer to the sound folder."""
    answers = {}
    for command in COMMANDS:
        place = prepare(tmp_path_factory.mktemp(command), sample)
        before = snapshot(place / "outside")
        answers[command] = ask(command, place)
        assert answers[command].code == 0, answers[command]
        assert not traces_outside(place, before)
    return answers


def check(command, place, usual, what):
    """Give the command; prints and returns what is wrong, one line for each."""
    before = snapshot(place / "outside")
    answer = ask(command, place)
    wrong = [*faults_of(command, answer, usual[command]), *traces_outside(place, before)]
    found = [f"{command}, {what}: {fault} :: {answer.err[-1500:]!r}" for fault in wrong]
    print(*found, sep="\n", end="\n" * bool(found), flush=True)
    return found


# ---- files of another kind ----


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_not_a_regular_file_of_the_run_is_never_followed(command, sample, usual, tmp_path):
    parts = parts_of(sample)
    cases = [(part, kind) for part in parts for kind in PLANTED]
    cases += [(part, kind) for part in temporary_names(parts) for kind in LINKS]
    random.Random(0).shuffle(cases)
    failures = []
    for part, kind in cases[: EXAMPLES // 5]:
        place = prepare(tmp_path, sample)
        plant(place / "inside" / "run", part, kind, place / "outside")
        failures += check(command, place, usual, f"{part} is {kind}")
    assert not failures


# ---- files of another content ----

TEXTS = (
    "\x1b[2J\x1b]0;title\x07", "\x9b2J", "=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1", "$\\undefined{$",
    "$x_{", "a\nb", "a\rb", "\u202egnp", "<script>alert(1)</script>", "$(touch out)", "`touch out`",
    "x" * 6000, "\\input{x}", "|", "\x00", "\ud800", "../../outside/file", "/dev/zero", "1e400",
    "nan", "-inf", "1_0", "0x1", "9" * 5000, "", " ",
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([*TEXTS, *HARD]),
    st.sampled_from(
        [None, True, 0, -1, 2, 10**9, 2**63, 10**400, 0.5, float("nan"), float("inf"), [], {}, [[]],
         [None], [1], ["a"], {"a": 1}, [{}], {"": {}}]
    ),
)  # fmt: skip


def _places(content, path=()):
    """Yield the path of every value of nested mappings and lists."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*path, key))


def _changed(draw, content):
    """Replace, remove or double some values of nested mappings and lists."""
    content = copy.deepcopy(content)
    for *above, last in draw(
        st.lists(st.sampled_from(list(_places(content))), min_size=1, max_size=2)
    ):
        place = content
        try:
            for key in above:
                place = place[key]
            kind = draw(st.sampled_from(["value", "value", "value", "remove", "key"]))
            if kind == "remove":
                del place[last]
            elif kind == "key" and isinstance(place, dict):
                place[draw(st.sampled_from(TEXTS))] = place.pop(last)
            else:
                place[last] = draw(VALUES)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change removed it
    return content


def _new_cells(draw, data):
    """Replace, remove or add cells of a table."""
    rows = [line.split(",") for line in data.decode(errors="replace").split("\n")]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        column = draw(st.integers(0, len(row) - 1))
        kind = draw(st.sampled_from(["cell", "cell", "cell", "remove", "add", "row"]))
        value = draw(st.sampled_from([*TEXTS, *HARD]))
        if kind == "cell":
            row[column] = value
        elif kind == "remove" and len(row) > 1:
            del row[column]
        elif kind == "add":
            row.insert(column, value)
        else:
            rows.append(list(row))
    return "\n".join(",".join(row) for row in rows).encode(errors="surrogatepass")


def _new_bytes(draw, data):
    at = draw(st.integers(0, len(data)))
    return draw(
        st.sampled_from(
            [
                data[:at],
                data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at + 1 :],
                data + data[:at],
                data[at:],
                *draw(st.lists(st.sampled_from(FILES), min_size=1, max_size=1)),
            ]
        )
    )


def _mutate(draw, folder, outside):
    """Change one part of a run; returns what was done."""
    part = draw(st.sampled_from(parts_of(folder)))
    path = folder / part
    kinds = ["plant", "remove"]
    if is_editable(path):
        kinds += ["bytes"] + ["content"] * 6 * (path.suffix in (".yaml", ".json", ".csv"))
    kind = draw(st.sampled_from(kinds))
    if kind == "plant":
        planted = draw(st.sampled_from(list(PLANTED)))
        part = draw(st.sampled_from([part, part, *temporary_names([part])]))
        plant(folder, part, planted, outside)
        return f"{part} is {planted}"
    if kind == "remove":
        remove(path)
        return f"{part} is removed"
    data = path.read_bytes()
    if kind == "bytes" or not data:
        path.write_bytes(_new_bytes(draw, data))
        return f"{part} has other bytes"
    if path.suffix == ".csv":
        new = _new_cells(draw, data)
    elif path.name == "index.json":
        try:
            content = json.loads(data)["index"]
        except (ValueError, TypeError, KeyError):
            return "nothing"  # an earlier change damaged it
        try:
            write_index(path, _changed(draw, content))
        except (ValueError, TypeError, KeyError):
            return "nothing"  # it has no JSON
        return f"{part} has other values"
    else:
        load, dump = (
            (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
        )
        try:
            content = load(data)
        except (ValueError, yaml.YAMLError):
            return "nothing"  # an earlier change damaged it
        if not isinstance(content, dict) or not content:
            return "nothing"
        if draw(st.booleans()):
            new = draw(damaged(content, dump))
        else:
            new = dump(_changed(draw, content)).encode(errors="surrogatepass")
    path.write_bytes(new)
    if path.name == "state.json" and is_editable(path.parent / "index.json"):
        try:
            sign(path.parent)
        except (ValueError, TypeError, KeyError, AttributeError):
            return f"{part} has other content, unsigned"
    return f"{part} has other content"


def test_every_command_survives_every_folder(sample, usual, tmp_path):
    failures = []

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(list(COMMANDS)), st.integers(1, 3), st.data())
    def property_of(command, changes, data):
        place = prepare(tmp_path, sample)
        done = [
            _mutate(data.draw, place / "inside" / "run", place / "outside") for _ in range(changes)
        ]
        failures.extend(check(command, place, usual, "; ".join(done)))

    property_of()
    assert not failures
