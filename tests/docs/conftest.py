import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="session")
def hooks():
    """What mkdocs calls when it builds the documentation."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def rendered(hooks, tmp_path, monkeypatch):
    """A page with its blocks run; its pictures lie in an empty folder."""
    monkeypatch.setattr(hooks, "pictures", tmp_path)
    return hooks.rendered
