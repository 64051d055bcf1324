"""A few rows of words, for three kinds of reader."""

import io

from rich.console import Console

from pellucid.base.shown import Shown

MADE = Shown(
    title="scores [bold]of[/bold] <heads>",
    columns=["", "attention mass", "interval"],
    rows=[["5.1 [red]", "0.9", "[0.8, 1]"], ["<b>", "-1", ""]],
    rest=1234,
)


def printed(shown: Shown) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(shown.table())
    return out.getvalue()


def test_text_leaves_cells_without_words_out():
    assert MADE.text() == "scores [bold]of[/bold] <heads>\n  5.1 [red]  0.9  [0.8, 1]\n  <b>  -1"


def test_a_terminal_shows_every_word_as_it_is():
    lines = printed(MADE).split("\n")
    assert lines[0].rstrip() == "scores [bold]of[/bold] <heads>"
    assert lines[1].split() == ["attention", "mass", "interval"]
    assert lines[2].split("  ")[0].strip() == "5.1 [red]"
    assert "[0.8, 1]" in lines[2]
    assert "and 1,234 more" in lines[4]


def test_a_notebook_shows_every_word_as_it_is():
    html = MADE.html()
    assert '<caption style="text-align:left">scores [bold]of[/bold] &lt;heads&gt;</caption>' in html
    assert '<td style="text-align:left">&lt;b&gt;</td><td style="text-align:right">-1</td>' in html
    assert '<tfoot><tr><td colspan="3">and 1,234 more</td></tr></tfoot>' in html
    assert html.count("<tr>") == 4


def test_nothing_is_said_of_a_rest_that_is_not_there():
    whole = Shown(title="scores", columns=["", "n"], rows=[])
    assert whole.text() == "scores"
    assert "more" not in printed(whole) + whole.html()
