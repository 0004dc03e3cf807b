"""Strings on their way out: no control, no direction mark, no formula, and one line."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtrl_fairgrad.utils.clean_text import FORMULAS, clean
from mtrl_fairgrad.utils.text_tables import csv_report, csv_text, latex, markdown, text_table


@given(st.text())
def test_everything_is_printable_afterwards_and_printable_text_stays_as_it_is(text):
    for shown in (clean(text), markdown(text), latex(text), *text_table([["a"], [text]])):
        assert shown.isprintable()
    printable = "".join(filter(str.isprintable, text))
    assert clean(printable) == printable


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\x9b2J", "\u202eexe", "\udc80", "a\nb", "a\r\t", "\x7f", "\u2028", "\0"]
)
def test_what_would_change_the_terminal_is_written_as_its_escape_sequence(text):
    assert clean(text).startswith(("\\", "a\\")) and clean(text).isascii()


@given(st.lists(st.one_of(st.text(), st.sampled_from(FORMULAS).map(lambda c: f"{c}1+1"))))
def test_no_cell_of_a_report_is_a_formula(cells):
    [row] = csv.reader(io.StringIO(csv_report([[*cells, "end"]])))
    for cell in row:
        assert cell.isprintable() and (not cell.startswith(FORMULAS) or float(cell) is not None)


def test_numbers_of_a_report_stay_numbers_and_files_for_programs_stay_exact():
    assert csv_report([[-1.5, "-1e-05", "+3", "-inf", "", 7]]) == "-1.5,-1e-05,+3,-inf,,7\n"
    assert csv_report([["=1", " @x", "－1+1", "a=b"]]) == "'=1,' @x,'－1+1,a=b\n"
    assert csv_text([["=1", "\x1b"]]) == "=1,\x1b\n"
