"""Every view is registered, documented and tested in a browser; what pictures need is imported late."""

import dataclasses
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from pellucid import viz
from pellucid.viz.modules import STATIC, source
from pellucid.viz.view import View

MODULES = sorted(path.name for path in STATIC.glob("*.js"))
BROWSER = Path(__file__).parents[1] / "browser"


def view_of(module: str) -> type[View]:
    home, name = viz.VIEWS[module].split(":")
    return getattr(import_module(home), name)


def test_there_are_views_and_all_are_registered():
    assert "attention.js" in MODULES
    assert sorted(viz.VIEWS) == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_view_is_data_for_its_module(module):
    kind = view_of(module)
    assert issubclass(kind, View) and dataclasses.is_dataclass(kind)
    assert kind.module == module


@pytest.mark.parametrize("module", MODULES)
def test_a_view_is_documented(module):
    kind = view_of(module)
    makers = [getattr(viz, name) for name in viz.__all__ if callable(getattr(viz, name))]
    (maker,) = [maker for maker in makers if maker.__annotations__.get("return") is kind]
    assert "Example:" in maker.__doc__ and "Raises:" in maker.__doc__
    assert kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}(")  # that one dataclasses would write
    assert source(module).startswith("// ")


@pytest.mark.parametrize("module", MODULES)
def test_a_view_is_tested_in_a_browser(module):
    tests = (BROWSER / f"test_{module.removesuffix('.js')}.py").read_text(encoding="utf-8")
    for word in ("mouse", "key", "contrast", '"dark"'):
        assert word in tests


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_whole_and_asks_for_nothing(module):
    text = source(module)
    assert text.count("export default") == 1
    assert "import {" not in text and "http:" not in text and "https:" not in text


def test_what_is_public_is_there():
    assert {name for name in dir(viz) if not getattr(viz, name)} == set()
    with pytest.raises(AttributeError, match="no attribute 'heatmap'"):
        _ = viz.heatmap


@pytest.mark.parametrize("name", ["attention_patterns", "hello", "plot"])
def test_an_import_brings_in_nothing_heavy(name):
    command = f"import sys; from pellucid import viz; viz.{name}; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert not {"plotly", "anywidget", "IPython", "xarray", "pandas", "markdown_it"} & set(said.split())
