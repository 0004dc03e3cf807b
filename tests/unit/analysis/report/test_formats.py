"""Tables in the terminal, in Markdown and in LaTeX, with hostile names, too."""

import csv
import io
import re

import pytest

from mtrl_fairgrad.analysis.report.figure_files import as_png, pdf_figures
from mtrl_fairgrad.analysis.report.formats import (
    as_csv,
    as_latex,
    as_markdown,
    as_text,
    latex_labels,
)
from mtrl_fairgrad.analysis.report.html import as_html
from mtrl_fairgrad.analysis.report.tables import certainty, duration, overview
from mtrl_fairgrad.runs.fault_log import Fault, encode_faults
from mtrl_fairgrad.runs.metric_entries import SPEED
from mtrl_fairgrad.utils.text_tables import latex_table
from tests.support.fabricated_runs import (
    COURSE,
    METHOD,
    PROTOCOL,
    TASKS,
    blocks_of_runs,
    groups_of,
    log,
)

HOSTILE = "a|b_c & <script>alert(1)</script> 50% #1 $x$ {y} ~^\\ `z` [0]*"
LS = {"name": "ls"}


def squeezed(text):
    """Text without the spaces that only align columns."""
    return re.sub("  +", " ", text)


def lines_of(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_the_terminal_shows_intervals_costs_and_who_beats_whom(make):
    better = {**COURSE, 1000: [[1.0, 1.0], [1.0, 1.0]]}
    path = make("a", better, method=LS)
    log(path, {SPEED: {1: 30.0, 500: 50.0}}, every=3700)
    lines = lines_of(as_text(blocks_of_runs(path, make("b"))))
    assert "ls 1.000 [1.000, 1.000] 1.000 [1.000, 1.000] 1 h 01 min 40" in lines
    assert "fairgrad (α=2, sgd) 0.600 [0.500, 0.700] 0.700 [0.500, 0.700] – –" in lines
    assert "ls – 1.00 [1.00, 1.00]" in lines
    assert "fairgrad (α=2, sgd) 0.00 [0.00, 0.00] –" in lines
    assert "Compared at the last evaluation that both have, env_steps 1,000." in lines
    assert max(map(len, as_text(blocks_of_runs(path, make("c"))).splitlines())) <= 120


def test_one_seed_has_no_interval_in_any_format(make):
    blocks = blocks_of_runs(
        make("a", {1000: [[0.5, 0.5]]}, seeds=[0]),
        make("b", {1000: [[1.0, 0.5]]}, seeds=[0], method=LS),
    )
    for text in (as_text(blocks), as_markdown(blocks), as_latex(blocks)):
        assert (
            "0.75" in text
        )  # the chance that ls is better: certain on one task, even on the other
        assert "±" not in text and "nan" not in text and "95 %" not in text
        assert not re.search(r"\d\.\d+ \\?\[", text)


def test_seeds_are_ranked_where_there_are_several(make):
    better = {0: COURSE[0], 1000: [[1.0, 1.0], [1.0, 0.9]]}
    blocks = blocks_of_runs(make("a"), make("b", better, method=LS))
    text = squeezed(as_markdown(blocks))
    assert "### Rank test of seeds at the end" in text
    assert (
        "| ls | 1.00 (0.33) | – |" in text and "| fairgrad (α=2, sgd) | – | 0.00 (0.33) |" in text
    )
    # Each table explains its numbers itself: in a paper they are floats of their own.
    for part in as_latex(blocks).split(r"\begin{table}"):
        assert ("Mann and Whitney" in part) == ("Rank test" in part)
    alone = {env_steps: success[:1] for env_steps, success in COURSE.items()}
    one = as_markdown(blocks_of_runs(make("c"), make("d", alone, seeds=[0], method=LS)))
    assert "beats" in one and "Rank test" not in one  # one seed of a method cannot be tested


def test_one_group_beats_nobody(make):
    [block] = blocks_of_runs(make("a"))
    assert "beats" not in as_markdown([block]) + as_latex([block]) + as_text([block])


def test_markdown_tables_are_as_wide_as_their_headings_and_show_names_as_they_are(make):
    path = make("a", tasks=[HOSTILE, "push-v3"])
    blocks = blocks_of_runs(path, make("b", tasks=[HOSTILE, "push-v3"], method={"name": HOSTILE}))
    text = squeezed(as_markdown(blocks))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows
    for row in rows:
        assert row.endswith("|")
        assert len(re.findall(r"(?<!\\)\|", row)) in (8, 6, 4)
    assert "<script" not in text.replace("\\<script", "")
    assert re.search(r"(?<!\\)[_*`<>~#\[\]](?!#)", re.sub(r"^#+ ", "", text, flags=re.M)) is None
    unescaped = re.sub(r"\\(.)", r"\1", text)
    assert f"| {HOSTILE} |" in unescaped
    assert f"## mt10\n\n{PROTOCOL}" in text


def test_latex_escapes_what_it_would_read_as_commands(make):
    text = squeezed(as_latex(blocks_of_runs(make("a", tasks=[HOSTILE, "push-v3"]))))
    expected = (
        r"a\textbar{}b\_c \& $<$script$>$alert(1)$<$/script$>$ 50\% \#1 \$x\$ \{y\} "
        r"\textasciitilde{}\textasciicircum{}\textbackslash{} `z` [0]* &"
    )
    assert expected in text
    cells = r"2 & 1,000 & 0.100 & 0.600 $\pm$ 0.100 & 0.700 $\pm$ 0.100 at 500 & 0.525 $\pm$ 0.000"
    assert rf"fairgrad ($\alpha$=2, sgd) & {cells} \\" in text
    assert (
        text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") == 3
    )
    assert text.count(r"Protocol: mt10 $\cdot$ 2 tasks $\cdot$ horizon 500 $\cdot$ one hot.") == 3
    for row in re.findall(r".* \\\\$", text, flags=re.M):
        assert row.isascii()


def test_every_latex_table_has_a_label_that_can_be_referred_to(make):
    paths = [make("a"), make("b", method=LS, env={"name": HOSTILE}), make("c", method=LS)]
    text = as_latex(blocks_of_runs(*paths))
    labels = re.findall(r"^\\label\{(.*)\}$", text, flags=re.M)
    assert len(labels) == text.count(r"\begin{table}") == len({*labels}) > 4
    assert "tab:mt10:probability-of-improvement" in labels
    assert all(re.fullmatch("[a-z0-9:-]+", label) for label in labels)
    for before in text.split(r"\label")[:-1]:
        assert before.rstrip().splitlines()[-1].startswith(r"\caption")  # else it has no number
    twice = blocks_of_runs(make("d", env={"name": "É"}), make("e", env={"name": "Ü"}))
    labels = latex_labels(twice)
    assert len(labels) == len({*labels}) and "tab:success-rate-mean-over-tasks:2" in labels


def test_a_latex_row_never_begins_with_a_bracket(make):
    blocks = blocks_of_runs(*(make(name, method={"name": name}) for name in "abcd"))
    assert latex_table([["a"], [" [x"], ["*x"]])[4:6] == [r" {[x} \\", r" {*x} \\"]
    rows = [row.strip() for row in re.findall(r"\n(.*) \\\\", as_latex(blocks))]
    assert any(row.startswith("{[1] a}") for row in rows)
    assert not any(row.startswith("[") for row in rows)


def test_each_protocol_has_its_own_tables_and_that_is_said(make):
    blocks = blocks_of_runs(make("a"), make("b", method=LS, env={"horizon": 150}))
    for text in (as_markdown(blocks), as_latex(blocks), as_text(blocks)):
        assert "2 protocols. Numbers of different protocols are neither averaged" in text
        assert "beats" not in text  # two groups, but nothing to compare
        assert "horizon 150" in text and "horizon 500" in text


def test_csv_keeps_its_columns_and_adds_intervals_and_cost(make):
    path = make("a")
    log(path, {SPEED: {1: 30.0, 500: 50.0}}, every=60)
    rows = list(csv.DictReader(io.StringIO(as_csv(groups_of(path)))))
    assert list(rows[0])[:12] == [
        *("protocol", "method", "task", "seeds", "episodes", "env_steps", "untrained"),
        *("final", "final_stderr", "best", "best_stderr", "best_env_steps"),
    ]
    assert [row["task"] for row in rows] == ["mean", *TASKS] and rows[0]["method"] == METHOD
    assert float(rows[0]["final_iqm_low"]) <= 0.7 <= float(rows[0]["final_iqm_high"])
    assert (
        float(rows[0]["wall_seconds"]) == pytest.approx(60, abs=5)
        and rows[0]["updates_per_second"] == "40"
    )
    assert rows[0]["paper_best"] == "" and rows[1]["wall_seconds"] == ""


def test_columns_can_be_put_in_another_order(make):
    [block] = blocks_of_runs(make("a"))
    found = overview(block).in_order([0, 4, 1])
    assert found.head == ["method", "final", "seeds"]
    assert found.rows == [[METHOD, "0.600 ± 0.100", "2"]] and found.notes == overview(block).notes
    assert (
        len(certainty(block).notes) == 2
    )  # nothing is said of a wall-clock time that nobody logged


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (float("nan"), "–"),
        (0.2, "0 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


CONTROLS = "=cmd\x1b]52;c;x\x07\u202e\u2028\x9b2J $\\undefined{$"


def test_no_format_lets_a_name_control_who_reads_it(make):
    path = make("a", tasks=[CONTROLS, "push-v3"], method={"name": CONTROLS}, env={"name": CONTROLS})
    faults = [Fault("critic", "unsolved", 0, CONTROLS, 1, 2, 0, "ls")]
    (path / "incidents.csv").write_bytes(encode_faults(faults))
    blocks = blocks_of_runs(path)
    for text in (as_text(blocks), as_markdown(blocks), as_latex(blocks), as_html(blocks)):
        assert all(line.isprintable() for line in text.split("\n"))
    for row in csv.reader(io.StringIO(as_csv(groups_of(path)))):
        assert not any(cell.startswith("=") or not cell.isprintable() for cell in row)


def test_figures_show_dollar_signs_as_they_are(make):
    path = make("a", tasks=[CONTROLS], course={0: [[0.5]], 9: [[1]]}, seeds=[0])
    blocks = blocks_of_runs(path)
    assert as_png(groups_of(path)) and len(list(pdf_figures(blocks))) == 2
