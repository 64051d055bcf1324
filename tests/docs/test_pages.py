"""The pages: their code runs, their commands and names exist, and nothing that is public is left out."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import typer

import pellucid
from pellucid.cli.main import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LATER: set[str] = set()
"""Studies whose page is yet to be written."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


def blocks(page, language):
    """The blocks of a language, whether they are run or not, as (words of the fence, code)."""
    found = re.findall(rf"^```{language}(.*?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(words.split(), code) for words, code in found]


@each_page
def test_the_code_of_a_page_runs(page, rendered):
    text = page.read_text(encoding="utf-8")
    found = rendered(text, str(page.relative_to(DOCS).with_suffix("")))
    assert "python run" not in found and "sh run" not in found


@each_page
def test_code_that_is_shown_without_being_run_is_only_that_of_commands(page):
    assert [code for words, code in blocks(page, "python") if "run" not in words] == []


@each_page
def test_the_commands_of_a_page_exist_with_their_options(page, repository):
    targets = set(re.findall(r"^(\w+):", (repository / "Makefile").read_text(), flags=re.MULTILINE))
    lines = [line for _, code in blocks(page, "sh") for line in code.replace("\\\n", " ").splitlines()]
    text = page.read_text(encoding="utf-8")
    lines += [line for line in re.findall(r"`((?:pellucid|make) [^`\n]+)`", text) if "NAME" not in line]
    for line in lines:
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, line
        else:
            assert words[0] == "pellucid", line
            _check(words[1:], line)


def _check(words, line):
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, line
        command, words = command.commands[words[0]], words[1:]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known, line


@each_page
def test_the_names_that_a_page_speaks_of_exist(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for name in re.findall(r"`(pellucid(?:\.\w+)+)", text):
        assert _found(name), name
    for path in re.findall(r"`((?:src|tests)/[\w./-]+)`", text):
        if "NAME" not in path:
            assert (DOCS.parent / path).exists(), path


def _found(name):
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_every_page_and_notebook_is_in_the_navigation(repository):
    told = re.findall(r"[\w/-]+\.md$", (repository / "mkdocs.yml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    notebooks = [path.with_suffix(".md") for path in DOCS.rglob("*.ipynb")]
    assert sorted(told) == sorted(path.relative_to(DOCS).as_posix() for path in [*PAGES, *notebooks])


def test_every_package_with_public_names_has_its_page_in_the_api():
    told = {
        name for page in (DOCS / "api").glob("*.md") for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
    }
    packages = [info.name for info in pkgutil.walk_packages(pellucid.__path__, "pellucid.") if info.ispkg]
    public = {name for name in packages if getattr(importlib.import_module(name), "__all__", None)}
    assert public and public | {"pellucid"} <= told
    assert [name for name in told if not _found(name)] == []


def test_every_study_has_a_page():
    studies = set(typer.main.get_command(app).commands["study"].commands)
    pages = {page.stem for page in (DOCS / "studies").glob("*.md")} - {"index"}
    assert pages <= studies
    assert studies - pages <= LATER
    assert not pages & LATER, "no exception is needed any more: take it off the list"
    api = (DOCS / "api" / "studies.md").read_text(encoding="utf-8")
    assert [name for name in pages if f"::: pellucid.studies.{name.replace('-', '_')}\n" not in api] == []


def test_the_results_of_long_studies_are_kept():
    assert {file.stem for file in (DOCS / "results").glob("*.json")} == {"emergence", "attention-only"}


@pytest.mark.parametrize("file", sorted((DOCS / "results").glob("*.json")), ids=lambda file: file.stem)
def test_a_result_that_is_kept_is_of_the_study_as_it_is(file):
    import json

    from pellucid.studies.attention_only_arms import REFERENCE
    from pellucid.studies.attention_only_arms import Sizes as Small
    from pellucid.studies.emergence_arms import ARMS, Sizes

    result = json.loads(file.read_text(encoding="utf-8"))
    settings = result["record"]["settings"]
    assert result["study"] == file.stem
    if file.stem == "emergence":
        sizes = Sizes(quick=settings["quick"])
        now = {"recipes": {name: arm.recipe(0, sizes).to_dict() for name, arm in ARMS.items()}}
    else:
        sizes = Small(quick=settings["quick"], full=settings["full"])
        now = {"recipe": sizes.recipe(REFERENCE, 0, next(iter(settings["data"].values()))).to_dict()}
    as_kept = json.loads(json.dumps(now))
    assert {name: settings[name] for name in now} == as_kept, "run the study again, and keep its result.json"


def test_no_page_names_a_place_of_this_machine():
    for page in [*PAGES, *DOCS.rglob("*.ipynb"), *DOCS.rglob("*.py"), DOCS.parent / "mkdocs.yml"]:
        assert not re.search(r"/(home|root|work|tmp)/", page.read_text(encoding="utf-8")), page
