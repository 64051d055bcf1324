"""Pictures in a notebook: shown at once, and once, by the same module as in a page, from what the kernel sends."""

import json

import nbclient
import nbformat
import pytest
from nbconvert import HTMLExporter

from pellucid.viz.document import json_in_html
from pellucid.viz.modules import source

WIDGET = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
CHART = "application/vnd.plotly.v1+json"

CELLS = {
    "greeting": "from pellucid import HookedTransformer, viz\nviz.hello('Ada')",
    "kept": "greeting = viz.hello('Bob');",
    "shown again": "greeting",
    "from a hook": """\
model = HookedTransformer.from_pretrained("toy-induction")
tokens = model.to_str_tokens("5 9 3 5 9")

def look(pattern, hook):
    viz.attention_patterns(tokens=tokens, attention=pattern[0, 1][None], attention_head_names=["1.1"])

model.run_with_hooks("5 9 3 5 9", return_type=None, fwd_hooks=[("blocks.1.attn.hook_pattern", look)])""",
    "chart": "figure = viz.imshow([[1.0, 2.0]])\nfigure",
    "chart again": "figure",
    "chosen": "import plotly.io\nplotly.io.renderers.default = 'json'\nviz.line([1.0, 2.0], title='Loss');",
    "without the extra": "import sys\nsys.modules['anywidget'] = None\nviz.colored_tokens(['a'], [1.0])",
}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The notebook, run."""
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS.values()]
    book = nbformat.v4.new_notebook(cells=cells)
    folder = tmp_path_factory.mktemp("notebook")
    client = nbclient.NotebookClient(
        book, timeout=100, allow_errors=True, resources={"metadata": {"path": str(folder)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        patch.setenv("PYTHONWARNINGS", "")
        return client.execute()


@pytest.fixture
def shown_by(notebook):
    """What a cell shows, a list of bundles of MIME types."""

    def outputs(name: str) -> list:
        cell = notebook.cells[list(CELLS).index(name)]
        return [output.get("data", output) for output in cell.outputs]

    return outputs


def test_a_picture_is_shown_where_it_is_made_and_once(shown_by):
    for name in ("greeting", "kept", "from a hook"):
        (output,) = shown_by(name)
        assert WIDGET in output, output


def test_a_picture_that_was_kept_can_be_shown_again(shown_by):
    (output,) = shown_by("shown again")
    assert WIDGET in output


def test_a_chart_is_shown_once_and_again_when_asked(shown_by):
    for name in ("chart", "chart again"):
        charts = [output for output in shown_by(name) if CHART in output]
        assert len(charts) == 1 and "Plotly.newPlot" in charts[0]["text/html"]


def test_what_draws_charts_without_a_kernel_is_there_once(notebook):
    scripts = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.outputs
        if "data" in output and "plotly.js v" in output.data.get("text/html", "")
    ]
    assert len(scripts) == 1


def test_static_html_shows_the_pictures_without_a_network(notebook, window, tmp_path):
    """As Jupyter exports it, where the state of widgets was not kept."""
    book = nbformat.from_dict(json.loads(json.dumps(notebook)))
    book.metadata.pop("widgets")
    del book.cells[list(CELLS).index("chosen")]  # what was chosen there is no picture
    made, _ = HTMLExporter().from_notebook_node(book)
    (tmp_path / "book.html").write_text(made, encoding="utf-8")
    page, _ = window
    page.context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    page.goto((tmp_path / "book.html").as_uri(), wait_until="domcontentloaded")
    frames = page.locator("iframe[srcdoc]")
    assert frames.count() == 4  # Ada's, Bob's twice, attention
    for i in range(4):
        frames.nth(i).content_frame.locator("html[data-drawn]").wait_for(state="attached")
    attention = frames.nth(3)
    assert attention.content_frame.locator("h3").inner_text() == "1.1"
    page.wait_for_function("(frame) => frame.style.height !== '300px'", arg=attention.element_handle())
    page.locator(".plotly-graph-div .main-svg").first.wait_for()
    page.context.unroute_all()


def test_the_renderer_that_the_user_chose_is_taken(shown_by):
    (output,) = shown_by("chosen")
    assert output["application/json"]["layout"]["title"]["text"] == "Loss"


def test_without_the_extra_the_line_that_installs_it_is_told(shown_by):
    (output,) = shown_by("without the extra")
    assert output["ename"] == "MissingExtraError"
    assert "pip install 'pellucid[notebook]'" in output["evalue"]


def test_a_notebook_draws_by_the_same_module_as_a_page_and_from_the_same_data(notebook, shown_by, opened, tmp_path):
    (output,) = shown_by("from a hook")
    model = notebook.metadata.widgets[STATE]["state"][output[WIDGET]["model_id"]]
    assert model["state"]["_esm"] == source("attention.js")
    host = tmp_path / "host.html"
    host.write_text(HOST.replace("MODEL", json_in_html(json.loads(json.dumps(model)))), encoding="utf-8")
    with opened(host) as page:
        assert page.locator("h3").inner_text() == "1.1"
        page.locator(".grid").hover(position={"x": 2 * 28 + 14, "y": 4 * 28 + 14})
        page.locator(".tip:visible").wait_for()
        assert "destination 4  5" in page.locator(".tip").inner_text()
        assert "source 2  9" in page.locator(".tip").inner_text()
        assert float(page.locator(".tip .weight").inner_text()) > 0.5
        page.evaluate("() => clean()")
        assert page.locator(".pellucid").count() == 0


# As a notebook's front end does it: the model's state, with its buffers put back where they were.
HOST = """<!doctype html><meta charset="utf-8"><div id="el"></div>
<script type="application/json" id="model">MODEL</script>
<script type="module">
  const { state, buffers } = JSON.parse(document.getElementById("model").textContent);
  for (const { path, data } of buffers) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const padded = new Uint8Array(bytes.length + 3); // nothing says that numbers begin where a typed array could
    padded.set(bytes, 3);
    const home = path.slice(0, -1).reduce((at, key) => at[key], state);
    home[path.at(-1)] = new DataView(padded.buffer, 3);
  }
  const url = URL.createObjectURL(new Blob([state._esm], { type: "text/javascript" }));
  const view = await import(url);
  const model = { get: (name) => state[name], set() {}, save_changes() {}, on() {}, off() {} };
  window.clean = await view.default.render({ model, el: document.getElementById("el") });
  document.documentElement.dataset.drawn = "";
</script>"""
