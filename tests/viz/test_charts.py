"""Charts appear as their user chose, and open nothing unasked."""

import webbrowser

import plotly.io
import pytest
from plotly.io.base_renderers import ExternalRenderer

from pellucid import viz
from pellucid.viz.charts import save


@pytest.fixture
def drawn(monkeypatch):
    """Titles of what the renderer called "seen" has drawn; opening a browser fails the test."""
    titles = []

    class Seen(ExternalRenderer):
        def render(self, fig_dict):
            titles.append(fig_dict["layout"]["title"]["text"])

    monkeypatch.setitem(plotly.io.renderers._renderers, "seen", Seen())
    monkeypatch.setattr(webbrowser, "get", lambda *_: pytest.fail("a browser was opened"))
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
    before = plotly.io.renderers.default
    yield titles
    plotly.io.renderers.default = before


@pytest.mark.parametrize("default", [None, "browser", "chrome+firefox"])
def test_a_script_opens_nothing(drawn, default):
    plotly.io.renderers.default = default
    figure = viz.imshow([[1.0]], title="Scores")
    assert (figure.layout.title.text, drawn) == ("Scores", [])


def test_the_default_that_was_chosen_is_taken(drawn):
    plotly.io.renderers.default = "seen"
    viz.line([1.0, 2.0], title="Loss")
    assert drawn == ["Loss"]


def test_a_renderer_that_is_named_is_taken(drawn):
    plotly.io.renderers.default = "browser"
    viz.line([1.0, 2.0], "seen", title="Loss")
    viz.imshow([[1.0]], renderer="seen", title="Scores")
    viz.scatter([1.0], [1.0], renderer="seen", title="Points")
    assert drawn == ["Loss", "Scores", "Points"]


def test_a_browser_that_the_environment_names_is_a_wish(drawn, monkeypatch):
    monkeypatch.setenv("PLOTLY_RENDERER", "browser")
    plotly.io.renderers.default = "browser"
    with pytest.raises(pytest.fail.Exception, match="a browser was opened"):
        viz.line([1.0, 2.0])


def test_a_chart_is_saved_as_a_page(tmp_path):
    save(viz.line([1.0, 2.0], title="Loss"), tmp_path / "loss.html")
    page = (tmp_path / "loss.html").read_text(encoding="utf-8")
    assert "<title>Loss</title>" in page and "plotly.js v" in page
