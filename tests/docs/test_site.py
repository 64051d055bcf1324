"""The site: built whole, without a warning, and asking no other place for anything."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ASKED = re.compile(r"<(?:script|iframe|img|source)\b[^>]*\bsrc=\"([^\"]+)\"|<link\b[^>]*\bhref=\"([^\"]+)\"")


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=repository,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_what_a_page_loads_lies_beside_it(site):
    for page in site.rglob("*.html"):
        for found in ASKED.findall(page.read_text(encoding="utf-8")):
            address = "".join(found)
            assert not re.match(r"(https?:)?//", address), (page, address)
            if not address.startswith("/"):  # the page for what is not found speaks of the root
                assert (page.parent / address.split("?")[0]).resolve().exists(), (page, address)


def test_styles_name_no_place_outside(site):
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style


def test_notebooks_can_be_fetched_and_are_pages_with_their_pictures(site):
    for name in ("first-look", "induction", "ioi", "contractions"):
        assert (site / "notebooks" / f"{name}.ipynb").is_file()
        assert "<iframe" in (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
        assert list((site / "pictures" / f"notebooks-{name}").glob("*.html"))


def test_what_builds_the_site_is_not_in_it(site):
    assert list(site.rglob("*.py")) == []
    assert not (site / "results").exists()


@pytest.mark.parametrize("package", ["", "analysis", "patching", "tasks", "train", "viz", "model.wired"])
def test_public_names_are_in_the_api(site, package):
    module = importlib.import_module(f"pellucid.{package}".rstrip("."))
    page = site / "api" / f"{package.split('.')[-1] or 'pellucid'}.html"
    text = page.read_text(encoding="utf-8")
    told = set(re.findall(r'id="(pellucid[\w.]*)"', text))
    for name in module.__all__:
        # What is named as its file is told by its own home, since the tool takes the file for it.
        homes = [at for at in told if at.endswith(f".{name}")]
        assert name.startswith("__") or homes or f"<code>{name}</code>" in text, name
