"""The rules that hold in every file, and that the guards which enforce them do guard."""

import ast
import importlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from jaxtyping import TypeCheckError

from pellucid.base.seeds import generator

SOURCE = Path(__file__).resolve().parents[1] / "src" / "pellucid"
FILES = sorted(SOURCE.rglob("*.py"))

LONGEST = 400
LONGER = {
    "hooked_transformer.py": "every method that people know is found in one place",
}
VAGUE = {"utils", "util", "helpers", "misc", "common", "manager", "base_"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))


@each_file
def test_every_file_says_what_it_is_for(file):
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


@each_file
def test_no_assert_stands_where_an_error_belongs(file):
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    assert [node.lineno for node in nodes if isinstance(node, ast.Assert)] == []


@each_file
def test_a_file_is_one_idea_long(file):
    lines = file.read_text(encoding="utf-8").count("\n")
    if str(file.relative_to(SOURCE)) in LONGER:
        assert lines > LONGEST, "no exception is needed any more: take it off the list"
    else:
        assert lines <= LONGEST


@each_file
def test_a_name_says_what_is_inside(file):
    parts = {part.removesuffix(".py").lower() for part in file.relative_to(SOURCE).parts}
    assert not parts & VAGUE


def test_a_literal_version_knows_nothing_of_the_fast_one():
    literal = sorted((SOURCE.parents[1] / "tests" / "reference").glob("*.py"))
    nodes = [node for file in literal for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    assert "pellucid" in modules
    assert {module for module in modules if module.startswith("pellucid.")} == set()


def test_the_exceptions_to_the_length_exist():
    assert {name for name in LONGER if not (SOURCE / name).is_file()} == set()


@pytest.fixture
def floors(repository, tmp_path):
    """Checks the floors in a copy of the package, where a line was added to a file: (status, what it printed)."""

    def check(file: str, line: str) -> tuple[int, str]:
        shutil.copytree(repository / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "bundled"))
        place = tmp_path / "src" / "pellucid" / file
        place.write_text((place.read_text(encoding="utf-8") if place.exists() else "") + f"\n{line}\n")
        run = subprocess.run(
            [
                Path(sys.executable).with_name("lint-imports"),
                *("--config", repository / "pyproject.toml", "--no-cache", "--no-logo"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path / "src"), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        return run.returncode, run.stdout + run.stderr

    return check


def test_the_floors_hold(floors):
    status, said = floors("base/seeds.py", "")
    assert status == 0, said


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("base/seeds.py", "pellucid.hooks.site"),
        ("hooks/site.py", "pellucid.measurement"),
        ("model/config.py", "pellucid.hooked_transformer"),
        ("pretrained/__init__.py", "pellucid.hooked_transformer"),
    ],
)
def test_a_file_that_imports_from_a_floor_above_is_caught(floors, importer, imported):
    status, said = floors(importer, f"import {imported}")
    name = importer.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert status == 1
    assert f"pellucid.{name} -> {imported}" in said


def test_packages_of_one_floor_that_import_each_other_are_caught(floors):
    status, said = floors("hooks/site.py", "import pellucid.text.policy")
    assert status == 1
    assert "pellucid.hooks.site -> pellucid.text.policy" in said


def test_an_import_inside_a_function_is_caught(floors):
    status, said = floors("base/seeds.py", "def later():\n    from pellucid.hooks import site")
    assert status == 1
    assert "pellucid.base.seeds -> pellucid.hooks.site" in said


def test_a_module_on_no_floor_is_caught(floors):
    status, said = floors("attic.py", '"""Things."""')
    assert status == 1
    assert "attic" in said


def test_a_test_cannot_reach_the_network():
    with pytest.raises(pytest.fail.Exception, match="must not use the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)  # an address that is nobody's (RFC 5737)
    with pytest.raises(pytest.fail.Exception, match="asked for 'example.org'"):
        socket.create_connection(("example.org", 80), timeout=1)


def test_a_test_can_talk_to_itself():
    with (
        socket.create_server(("localhost", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=1) as there,
    ):
        here, _ = server.accept()
        with here:
            there.sendall(b"x")
            assert here.recv(1) == b"x"


def test_annotations_are_checked_at_run_time():
    with pytest.raises(TypeCheckError):
        generator("no number")


@pytest.mark.parametrize("package", ["analysis", "tasks", "train"])
def test_no_name_that_a_package_gives_is_hidden_by_a_file_of_that_name(package):
    """Once the file is imported, the package's attribute is the module."""
    module = importlib.import_module(f"pellucid.{package}")
    files = {path.stem for path in Path(str(module.__file__)).parent.glob("*.py")}
    assert not {name for name in module.__all__ if name in files}
