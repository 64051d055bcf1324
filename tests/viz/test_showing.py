"""Where pictures appear: outside of a notebook, and in which forms inside."""

import sys
import types

import pytest

from pellucid import viz
from pellucid.viz import charts, showing
from pellucid.viz.showing import switch_on_widgets


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(showing, "_told", set())
    monkeypatch.setattr(showing, "_numbers", {})
    monkeypatch.delenv(showing.FOLDER, raising=False)


def test_a_script_is_told_once_why_nothing_shows(capsys):
    viz.hello("Ada")
    viz.line([1.0, 2.0])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "there is none here" in said.err and "PELLUCID_PICTURES=FOLDER" in said.err


def test_a_script_writes_each_picture_where_it_is_asked_to(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(showing.FOLDER, str(tmp_path / "new"))
    viz.hello("Ada </title>")
    viz.imshow([[1.0]], title="Normalized Logit Difference: a/b")
    viz.line([1.0, 2.0])
    names = ["001-hello-ada-title.html", "002-normalized-logit-difference-a-b.html", "003-plot.html"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names
    assert [line.rsplit("/")[-1] for line in capsys.readouterr().err.splitlines()] == names


def test_parts_of_something_larger_are_only_returned(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv(showing.FOLDER, str(tmp_path))
    with pytest.raises(KeyError), showing.unshown():
        assert viz.hello("Ada").name == "Ada"
        assert viz.line([1.0, 2.0], "no such renderer").data[0].y.tolist() == [1.0, 2.0]
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""
    viz.hello("Ada")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_terminal_of_ipython_is_no_notebook(monkeypatch):
    IPython = pytest.importorskip("IPython")
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    assert showing.notebook() is None and showing.cell() is None


def test_widgets_are_switched_on_in_colab_alone(monkeypatch):
    switch_on_widgets()  # elsewhere nothing happens
    called = []
    output = types.ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: called.append(True)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    switch_on_widgets()
    assert called == [True]


def test_a_view_in_a_notebook_comes_in_every_form():
    """A widget for those that have a kernel, a page in a frame for those that have none."""
    bundle = viz.colored_tokens(["<b>", '"'], [1.0, 2.0])._bundle()
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(bundle)
    frame = bundle["text/html"]
    assert frame.startswith("<iframe ") and "<b>" not in frame and frame.count("<") == 2


@pytest.mark.parametrize("default", ["plotly_mimetype", "vscode"])
def test_charts_in_a_notebook_come_with_html_unless_their_user_chose(monkeypatch, default):
    import plotly.io

    before = plotly.io.renderers.default
    try:
        monkeypatch.delenv("PLOTLY_RENDERER", raising=False)
        plotly.io.renderers.default = default
        charts._also_static()
        charts._also_static()
        assert plotly.io.renderers.default == f"{default}+notebook"
        plotly.io.renderers.default = "colab"
        charts._also_static()
        assert plotly.io.renderers.default == "colab"
        monkeypatch.setenv("PLOTLY_RENDERER", default)
        plotly.io.renderers.default = default
        charts._also_static()
        assert plotly.io.renderers.default == default
    finally:
        plotly.io.renderers.default = before
