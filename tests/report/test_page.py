"""A report is built part by part, and says what it cannot take."""

import numpy as np
import plotly.graph_objects
import pytest

from pellucid import viz
from pellucid.base.errors import ArgumentError
from pellucid.report.page import Page


def test_figures_and_tables_are_numbered_apart():
    page = Page("T").figure(viz.hello("a"), "One.").table(["a"], [["x"]], "Two.").figure(viz.hello("b"), "Three.")
    made = page.html()
    assert [made.index(f"<b>{name}.</b>") for name in ("Figure 1", "Table 1", "Figure 2")] == sorted(
        made.index(f"<b>{name}.</b>") for name in ("Figure 1", "Table 1", "Figure 2")
    )


def test_sections_of_one_name_have_their_own_anchors():
    made = Page("T").section("Which *heads*?").text("x").section("Which heads?").section("→").html()
    assert 'id="1-which-heads"' in made and 'id="2-which-heads"' in made and 'id="3-section"' in made
    assert made.count('href="#2-which-heads"') == 1


def test_a_page_without_sections_has_no_contents():
    assert "<nav" not in Page("T").text("x").html()


def test_cells_are_text_or_numbers():
    made = (
        Page("T")
        .table(["a", "b"], [["<b>", 0.123456], ["**x**", None], [3, float("nan")], ["c", np.float64(2.0)]], "C.")
        .html()
    )
    assert '<th scope="row">&lt;b&gt;</th><td class="number">0.1235</td>' in made
    assert '<th scope="row"><strong>x</strong></th><td>—</td>' in made
    assert '<th class="number">3</th><td class="number">—</td>' in made
    assert '<td class="number">2</td>' in made


def test_figures_of_plotly_and_views_are_taken():
    made = Page("T").figure(plotly.graph_objects.Figure(), "Empty.").figure(viz.hello("a"), "Full.").html()
    assert made.count('class="picture"') == 2


@pytest.mark.parametrize(
    ("add", "said"),
    [
        (lambda page: page.figure([[1.0]], "x"), "must be a view or a figure of plotly, got list"),
        (lambda page: page.figure(viz.hello("a"), " "), "a figure must have a caption that says how to read it"),
        (lambda page: page.table(["a"], [], ""), "a table must have a caption that says how to read it"),
        (lambda page: page.table(["a", "b"], [["x"]], "c"), r"each row must have 2 cells, got 1: \['x'\]"),
        (lambda page: page.note("x", kind="danger"), "kind must be one of note, warning, got 'danger'"),
    ],
)
def test_what_cannot_be_is_refused(add, said):
    with pytest.raises(ArgumentError, match=said):
        add(Page("T"))


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    page = Page("T").text("x")
    page.save(tmp_path / "out" / "report.html")
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == page.html()
    monkeypatch.setattr(Page, "html", lambda page: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        page.save(tmp_path / "out" / "report.html")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
