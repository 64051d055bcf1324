"""The package as people get it: what an import costs, what the wheel carries, and whether the README is true."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import pellucid
from pellucid.base.record import VERSION
from pellucid.pretrained.names import bundled_models

README = Path(__file__).resolve().parents[1] / "README.md"

HEAVY = {
    *("xarray", "scipy.stats", "pandas", "huggingface_hub", "anywidget", "plotly", "rich", "typer"),
    *("transformers", "tokenizers"),
}
"""What takes tenths of a second to import, and is needed for some things only."""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory) -> Path:
    """The wheel, built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=repository)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the wheel installed in it, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


@pytest.mark.parametrize("name", ["", ".HookedTransformer"])
def test_an_import_brings_in_nothing_heavy(tmp_path, name):
    said = run(sys.executable, "-c", f"import sys, pellucid; pellucid{name}; print(*sys.modules)", cwd=tmp_path)
    assert "pellucid" in said.split()
    assert HEAVY & set(said.split()) == set()


def test_loading_brings_in_nothing_heavy_either(tmp_path):
    attention, mlp = pellucid.AttentionConfig(n_heads=2, d_head=4), pellucid.MLPConfig(d_mlp=16)
    config = pellucid.Config(n_layers=1, d_model=8, d_vocab=10, n_ctx=8, attention=attention, mlp=mlp)
    pellucid.HookedTransformer(config, seed=0).save_pretrained(tmp_path / "model", family="gpt2")
    code = "import sys; from pellucid import HookedTransformer; HookedTransformer.from_pretrained('model')([[1, 2]]); "
    said = run(sys.executable, "-c", code + "print(*sys.modules)", cwd=tmp_path)
    assert "pellucid.pretrained.families.gpt2" in said.split()
    assert {*HEAVY, "sympy"} & set(said.split()) == set()


@pytest.mark.parametrize(
    "name", ["HookedTransformer", "HookPoint", "ActivationCache", "get_act_name", "to_numpy", "get_device"]
)
def test_what_people_know_is_at_the_top(name):
    assert callable(getattr(pellucid, name))
    assert name in dir(pellucid)


def test_the_wheel_bears_the_version_of_the_records(wheel):
    assert wheel.name == f"pellucid-{VERSION}-py3-none-any.whl"


def test_the_wheel_carries_types_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"pellucid/py.typed", f"pellucid-{VERSION}.dist-info/licenses/LICENSE"} <= names


@pytest.mark.parametrize("name", bundled_models())
def test_the_wheel_carries_each_bundled_model(wheel, repository, name):
    parts = {path.name for path in (repository / "src" / "pellucid" / "bundled" / name).iterdir()}
    assert {"config.json", "model.safetensors", "card.json", "README.md"} <= parts
    assert {f"pellucid/bundled/{name}/{part}" for part in parts} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_alone_runs_the_study_from_an_empty_folder(installed, tmp_path):
    where = run(
        sys.executable, "-c", "import pellucid; print(pellucid.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert Path(where.strip()).is_relative_to(installed)
    command = (installed / "bin" / "pellucid", "study", "induction", "--model", "toy-induction", "--out", "out/tour")
    said = run(*command, cwd=tmp_path, PYTHONPATH=str(installed), COLUMNS="100")
    result = json.loads((tmp_path / "out" / "tour" / "result.json").read_text(encoding="utf-8"))
    assert (result["schema"], result["study"]) == (1, "induction")
    assert result["record"]["version"] == VERSION
    assert any(figure["value"] is not None for figure in result["figures"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (shown,) = (block for block in readme("text") if "induction head" in block)
    assert words(shown) == words(said), "the README must show what the tour prints"


def test_the_command_tells_what_there_is(tmp_path):
    said = run(Path(sys.executable).with_name("pellucid"), "--help", cwd=tmp_path, NO_COLOR="1", COLUMNS="100")
    assert {"study", "heads", "models"} <= set(said.split())


def readme(language: str) -> list[str]:
    """The README's blocks of code in one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def words(printed: str) -> list[str]:
    """What it says, but for the numbers, whose last digit may differ between machines."""
    return re.findall(r"[^\W\d_]+", printed)


def test_the_python_of_the_readme_prints_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "".join(readme("python"))
    exec(compile(code, "README.md", "exec"), {})
    promised = re.findall(r"^# → (.*)$", code, flags=re.MULTILINE)
    assert promised
    assert capsys.readouterr().out.splitlines() == promised


def test_the_commands_of_the_readme_exist(tmp_path, repository):
    lines = [line.split() for block in readme("sh") for line in block.splitlines()]
    targets = set(re.findall(r"^(\w+):", (repository / "Makefile").read_text(), flags=re.MULTILINE))
    wanted = {words[1] for words in lines if words[:1] == ["make"]}
    assert wanted and wanted <= targets
    commands = {words[1] for words in lines if words and words[0].endswith("pellucid")}
    assert commands
    for command in commands:
        run(Path(sys.executable).with_name("pellucid"), command, "--help", cwd=tmp_path)


def test_the_readme_is_short():
    assert README.read_text(encoding="utf-8").count("\n") < 140
