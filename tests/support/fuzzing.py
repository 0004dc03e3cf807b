"""Wild command lines and run folders, and what no command may answer to them."""

import contextlib
import io
import os
from collections import Counter
from pathlib import Path

import yaml
from hypothesis import strategies as st

from mtrl_fairgrad.cli.advice import dotted_keys
from mtrl_fairgrad.config.groups import config_dir, config_group
from mtrl_fairgrad.config.schema import to_dict
from mtrl_fairgrad.utils.validation import MAX_MESSAGE_LENGTH
from tests.support.tiny_runs import TINY

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
"""Command lines and folders tried in this process, of all kinds together."""
PROCESSES = int(os.environ.get("FUZZ_PROCESSES", "8"))
"""Command lines tried as processes."""

HARD = (
    "", "null", "nan", "inf", "-inf", "-1", "0", "-0.0", "1e400", "1e-400", "1" + "0" * 30,
    "9" * 400, "9" * 5000,
    "true", "[]", "{}", "[[1,2],[3]]", "{a:{b:1}}", "[null]", "[1,nan]", "a,b", "1,2,3", "1..3",
    "0x10", "1_000",
    "${oc.env:HOME}", "${oc.env:NOPE}", "${nothing}", "${steps}", "${oc.decode:x}",
    "${oc.create:{a:1}}", "${", "$",
    "${}", "'", '"', "'a", "a b", "\\", "\\,", "=", "a=b=c", "/etc/passwd", "../../..",
    "../../../tmp/x", "~", "C:\\x",
    "a" * 300, "\x00", "\x1b[2J", "\r\n", "\u202e", "日本", "ﬀ", "\udc80", "range(1,5)",
    "choice(1,2)", "glob(*)",
    "sort(3,1)", "int(3)", "int(x)", "str(x)", "shuffle(1,2)", "interval(0,1)", "tag(a,b)",
    "!!python/object:os.system", "[" * 60, "[" * 60 + "]" * 60, "{_target_: os.system}",
    "a" * 30_000, "@", "a@b",
    "<script>alert(1)</script>", "%s%n", "{}{}",
)  # fmt: skip
ODD_WORDS = (
    "", "=", "==", "=1", "-", "--", "---", "--foo", "-x", "--cfg", "--cfg=job", "--cfg=x", "-c",
    "--resolve", "--info",
    "--experimental-rerun=x", "--config-dir=/tmp", "--config-name=x", "-cd", "--help",
    "--hydra-help", "--version",
    "-m", "--multirun", "-sc", "--mult", "@x", "~", "+", "++", "~steps", "~env", "~agent.width",
    "+steps=1",
    "++steps=3", "+new.key=1", "+new=1", "steps", "steps=", "method@hydra.launcher=ls",
    "+method@agent=ls",
    "method@=ls", "a.b.c.d=1", ".=1", "a..b=1", "env..name=1", "env.=1", "hydra=1",
    "hydra={run:{dir:x}}",
    "hydra.run.dir=out", "hydra.output_subdir=out", "hydra.job.chdir=true",
    "hydra/job_logging=default",
    "hydra/hydra_logging=default",
    "hydra.job_logging.handlers.f={class: logging.FileHandler, filename: f}",
    "hydra/launcher=basic", "hydra.launcher._target_=os.system",
    "+hydra.launcher.x={_target_: os.mkdir, path: out}",
    "hydra.sweeper._target_=os.getcwd", "+hydra.callbacks.x={_target_: os.mkdir, path: out}",
    "hydra.searchpath=[file:///tmp]", "hydra.mode=RUN", "hydra.mode=MULTIRUN", "hydra.verbose=true",
    "hydra.sweep.dir=sw", "defaults=[]", "+defaults=[x]", "preset=../env/mt1",
)  # fmt: skip


def known_keys(config):
    """Dotted names of all options, and the groups."""
    groups = {path.name for path in config_dir().iterdir() if path.is_dir()} - {"hydra"}
    return sorted({*dotted_keys(to_dict(config)), *groups})


def words(keys):
    """Overrides, from the reasonable to the absurd."""
    values = st.one_of(
        st.sampled_from(HARD),
        st.text(max_size=12),
        st.integers().map(str),
        st.floats().map(str),
        st.sampled_from(
            [name for group in ("env", "agent", "method", "preset") for name in config_group(group)]
        ),
        st.lists(st.integers(-1, 9), max_size=3).map(str),
    )
    operators = st.sampled_from(["", "", "", "", "+", "++", "~"])
    made = st.builds("{}{}={}".format, operators, st.sampled_from(keys), values)
    return st.one_of(
        made, made, made, st.sampled_from(ODD_WORDS), st.text(max_size=15), st.sampled_from(TINY)
    )


def options(flags):
    """Arguments of a command with flags; no value is a path to another folder, since what is asked
    for is written.
    """
    known = st.sampled_from([*HARD, *sorted(flags)])
    values = st.one_of(known, st.text(max_size=8), st.integers().map(str)).filter(
        lambda value: "/" not in value and not value.startswith("..")
    )
    pairs = st.tuples(st.sampled_from(sorted(flags)), values)
    return st.lists(st.one_of(pairs, values.map(lambda value: (value,))), max_size=3).map(
        lambda found: [word for pair in found for word in pair]
    )


# ---- run folders ----

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 25)
)
FILES = (
    b"", b"\x00", b"\xff\xfe", b"[]", b"{}", b"null", b"3", b"text", b"a: [", b"{", b"a: 1\na: 2",
    b"? [a, b]\n: 1\n",
    b"1: 2\n", b"!!python/object/apply:os.mkdir [out]\n", b"a: !!python/name:os.system\n",
    b"a: !!set {x}\n",
    b"a: 2020-01-01\n", b"a: 2020-99-99\n", b"a: !!binary aGk=\n", BOMB.encode(), b"[" * 10_000,
    b'{"a":' * 100_000,
    b"a: " + b"x" * 200_000, b"{" + b'"a":' * 5 + b"1}", b"a: &x {b: *x}\n", b"<<: {a: 1}\n",
    b"%YAML 9.9\n---\na: 1\n", b"a: 1\n---\nb: 2\n",
)  # fmt: skip
ODD_LEAVES = st.sampled_from([*HARD, 10**400, [], {}, [[]], {"a": 1}, [{}]])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), ODD_LEAVES
)


def leaves(content, path=()):
    """Where the values of nested mappings are."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


@st.composite
def damaged(draw, content, dump):
    """The bytes of a file like one with this content, as `dump` writes it."""
    kind = draw(st.sampled_from(["values", "values", "values", "bytes", "file"]))
    if kind == "file":
        return draw(st.sampled_from(FILES))
    content = yaml.safe_load(yaml.safe_dump(content))
    for *above, last in draw(
        st.lists(st.sampled_from(list(leaves(content))), min_size=kind == "values", max_size=3)
    ):
        place = content
        for key in above:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            if draw(st.integers(0, 4)):
                place[last] = draw(LEAVES)
            else:
                place.pop(last, None)
    data = dump(content).encode(errors="surrogatepass")
    if kind == "bytes":
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 30)) :]
    return data


# ---- what every answer has to be ----


def tree(folder):
    return {path.relative_to(folder) for path in Path(folder).rglob("*")}


def answer(command, arguments, allowed=(), codes=(0, 2)):
    """Call a command in a folder of its own; returns its code once nothing speaks against its
    answer.

    `allowed`: what it may make there, by the first part of its path.
    """
    before, out, err = tree("."), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command(list(arguments))
        except SystemExit as ended:
            code = ended.code or 0
    check_answer(code, err.getvalue(), codes)
    made = {path.parts[0] for path in tree(".") - before} - set(allowed)
    assert not made, f"made {made}"
    return code


def check_answer(code, said, codes=(0, 2)):
    assert code in codes, f"exit code {code}: {said}"
    assert "Traceback" not in said
    lines = said.splitlines()
    if code == 2:
        assert len(lines) == 1 and said.startswith("error: ") and said.endswith("\n"), said
        assert len(said) <= MAX_MESSAGE_LENGTH + 20 and said.strip().isprintable(), said
    else:
        assert not lines, said


class Tally(Counter):
    """How often each code was given, so that a test may see that it tried both."""

    def of_both(self):
        assert self[0] and self[2], f"only {dict(self)}"
