"""`pellucid train`: a recipe becomes a model, and a folder that tells how it came about."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.grid import many
from pellucid.cli.options import AsJson, Debug, Overwrite, print_json
from pellucid.cli.tables import print_table

if TYPE_CHECKING:
    from pellucid.train.run import Run

Source = Annotated[
    str | None,
    typer.Argument(metavar="RECIPE", help="A TOML file, or a bundled recipe; none: that of the run to --resume."),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Changes, such as steps=500 model.d_model=128.", show_default=False),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the model and all else goes.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that lies in DIR.")]
Print = Annotated[bool, typer.Option("--print", help="Print the whole recipe, defaults included, and end.")]
Count = Annotated[
    int | None, typer.Option("--processes", min=1, metavar="N", help="Runs of a grid at a time.  [default: one a core]")
]
Device = Annotated[str | None, typer.Option("--device", help="Such as cpu or cuda.  [default: the best one here]")]


def train(
    recipe: Source = None,
    changes: Changes = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    print_only: Print = False,
    device: Device = None,
    processes: Count = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model as a recipe says, from scratch or from any model that loads, or many: any key may hold a list.

    \b
    Example:
        pellucid train toy-induction steps=500 seed=3 --out out/toy
        pellucid train toy-induction --print > my-recipe.toml
        pellucid train my-recipe.toml seed=[0,1,2] optimiser.lr=[1e-3,1e-2] --out out/grid
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.base.errors import OutputError
    from pellucid.train.folder import RECIPE, REPORT
    from pellucid.train.grid import read_grid
    from pellucid.train.grid_run import GRID_FILE
    from pellucid.train.recipe import bundled_recipes, read_recipe
    from pellucid.train.run import train as run

    if recipe is None or (resume and "=" in recipe):
        if not resume or out is None:
            raise typer.BadParameter(f"give a recipe: a TOML file, or one of {', '.join(bundled_recipes())}")
        begun = next((out / name for name in (RECIPE, GRID_FILE) if (out / name).is_file()), None)
        if begun is None:
            raise OutputError(f"{out} must hold a run to go on with, it has no {RECIPE}; leave --resume out")
        changes, recipe = [*([] if recipe is None else [recipe]), *(changes or [])], str(begun)
    grid = read_grid(recipe, changes or [])
    if grid is not None:
        many(grid, out, resume, overwrite, print_only, device, processes, as_json)
        return
    if processes is not None:
        raise typer.BadParameter("--processes is for grids, in which a key holds a list; leave it out")
    read = read_recipe(recipe, changes or [])
    if print_only:
        typer.echo(read.to_toml(), nl=False)
        return
    if out is None:
        raise typer.BadParameter("give --out DIR, where the trained model goes")
    found = run(read, out=out, resume=resume, overwrite=overwrite, device=device)
    if as_json:
        print_json(_summary(found))
        return
    _print(found)
    typer.echo()
    typer.echo(f"Written to {out}, the model and {len(found.checkpoints)} checkpoints")
    typer.echo(f"Report: {out / REPORT}")


def _summary(run: "Run") -> dict[str, Any]:
    """What a program may want to know."""
    from pellucid.train.summary import best_heads

    losses = run.history.values
    return {
        "recipe": run.recipe.to_dict(),
        "loss": {"first": float(losses[0]), "last": float(losses[-1])},
        "heads": best_heads(run),
        "checkpoints": {str(step): str(path) for step, path in run.checkpoints.items()},
    }


def _print(run: "Run") -> None:
    """Where the loss went, and which heads there are."""
    from pellucid.train.summary import best_heads

    losses = run.history.values
    typer.echo(f"loss    {losses[0]:.4f} → {losses[-1]:.4f} nats in {len(losses)} steps")
    rows = [
        [
            row["role"],
            row["head"],
            f"{row['score']:.3f}",
            f"[{row['low']:.3f}, {row['high']:.3f}]",
            f"{row['control']:.3f}",
        ]
        for row in best_heads(run)
    ]
    if rows:
        print_table(["role", "best head", "score", "95 % interval", "control"], rows)
        typer.echo("Attention mass on tokens that repeat; each head chosen on half of the prompts.")
