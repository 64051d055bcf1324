"""The notebooks run in a kernel, and their pictures come in the forms that each front end shows."""

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
CHART = "application/vnd.plotly.v1+json"

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_the_notebooks_that_the_documentation_promises():
    assert {path.stem for path in NOTEBOOKS} == {"first-look", "induction", "ioi", "contractions"}


@each_notebook
def test_a_notebook_is_kept_without_output(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    for cell in book.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@each_notebook
def test_a_notebook_begins_with_a_title(path):
    assert nbformat.read(path, as_version=4).cells[0].source.startswith("# ")


@pytest.mark.slow
@each_notebook
def test_a_notebook_runs_and_shows_charts_and_widgets(path, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONWARNINGS", "")
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    shown = [output.data for output in outputs if "data" in output]
    assert any(CHART in bundle for bundle in shown)
    assert all("text/html" in bundle for bundle in shown if CHART in bundle or WIDGET in bundle)
    assert any(WIDGET in bundle for bundle in shown)
