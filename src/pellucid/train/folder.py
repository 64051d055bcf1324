"""The folder of a training run: whether one may write there, and what stands there before the first step."""

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pellucid.base.errors import MisreadWarning, OutputError
from pellucid.base.files import clear_abandoned, written_aside
from pellucid.pretrained.checkpoints import FOLDER
from pellucid.train.log import METRICS
from pellucid.train.recipe import Recipe, read_recipe

RECIPE, MADE_WITH, PROBES, REPORT, BOARD = "recipe.toml", "made_with.json", "probes", "report.html", "tensorboard"
MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
OURS = (RECIPE, MADE_WITH, METRICS, REPORT, FOLDER, PROBES, BOARD, *MODEL)
"""What a run writes into its folder."""


def check_vacant(folder: Path, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
    """Whether a run may write to a folder.

    Raises:
        OutputError: It holds results and neither `resume` nor `overwrite` is asked for, or both are; nothing is there
            to be resumed; or it is of another recipe.
    """
    check_results(folder, OURS, what="run", begun=RECIPE, resume=resume, overwrite=overwrite)
    if not resume:
        return
    theirs = read_recipe(folder / RECIPE)
    difference = _difference(theirs.to_dict(), recipe.to_dict())
    if difference is not None:
        raise OutputError(
            f"{folder} must hold a run of this recipe, but {difference}; leave --resume out, or change it"
        )


def check_results(folder: Path, names: Iterable[str], *, what: str, begun: str, resume: bool, overwrite: bool) -> None:
    """Whether one may write to a folder, by what lies there.

    Args:
        folder: Where to.
        names: What would be there if something had been written.
        what: A run, or a grid.
        begun: Which of the names shows that one was begun.
        resume: It is to be gone on with.
        overwrite: It is to be replaced.

    Raises:
        OutputError: It holds results and neither is asked for, or both are; or nothing is there to be resumed.
    """
    if resume and overwrite:
        raise OutputError("one of --resume and --overwrite must be chosen, got both (resume, overwrite)")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} must be a folder for the results, it is a file; choose another place")
    held = [name for name in names if (folder / name).exists()]
    if held and not resume and not overwrite:
        raise OutputError(
            f"{folder} must not hold results already, it has {held[0]}; add --resume (resume=True) to go on with the "
            f"{what}, or --overwrite (overwrite=True)"
        )
    if resume and begun not in held:
        raise OutputError(f"{folder} must hold a {what} to go on with, it has no {begun}; leave --resume out")


def take_away(folder: Path, names: Iterable[str]) -> None:
    """Removes files and folders, those that are there."""
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_data(folder: Path, data: Mapping[str, Any]) -> None:
    """Whether a run goes on with the text that it began with.

    Args:
        folder: Of the run.
        data: What a record tells of it.

    Raises:
        OutputError: It is another.
    """
    path = folder / MADE_WITH
    before = json.loads(path.read_text(encoding="utf-8")).get("data") if path.is_file() else data
    changed = _difference(before, data)
    if changed is not None:
        raise OutputError(
            f"{folder} must be gone on with on the data that it began with, but {changed}; bring the data back, or "
            "begin again with --overwrite"
        )


def _difference(theirs: Any, ours: Any, where: str = "") -> str | None:
    """The first place where two recipes differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in {**theirs, **ours}:
            found = _difference(theirs.get(name), ours.get(name), f"{where}.{name}" if where else name)
            if found is not None:
                return found
        return None
    return None if theirs == ours else f"{where} is {theirs!r} there and {ours!r} here"


def prepare(folder: Path, recipe: Recipe, made_with: dict[str, Any], *, overwrite: bool) -> None:
    """Makes a folder ready for a run, begun or gone on with.

    Args:
        folder: Of the run.
        recipe: Of the run.
        made_with: What its last digits depend on, beside the recipe.
        overwrite: Take away what an earlier run left.

    Warns:
        MisreadWarning: What the last digits depend on was otherwise when the run began.
    """
    if overwrite:
        take_away(folder, OURS)
    for place, name in [*((folder, name) for name in OURS), (folder / FOLDER, "*"), (folder / PROBES, "*")]:
        clear_abandoned(place, name)
    if (folder / MADE_WITH).is_file():
        before = json.loads((folder / MADE_WITH).read_text(encoding="utf-8"))
        changed = _difference(before, made_with)
        if changed is not None:
            warnings.warn(
                f"the run goes on, but not bit for bit as it would have: {changed}", MisreadWarning, stacklevel=4
            )
    with written_aside(folder / MADE_WITH) as aside:
        aside.write_text(json.dumps(made_with, indent=1) + "\n", encoding="utf-8")
    with written_aside(folder / RECIPE) as aside:
        aside.write_text(recipe.to_toml(), encoding="utf-8")
