"""`pellucid train`: a recipe becomes a model, and a folder that tells how it came about."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
Device = Annotated[str | None, typer.Option("--device", help="Such as cpu or cuda.  [default: the best one here]")]


def train(
    recipe: Source = None,
    changes: Changes = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    print_only: Print = False,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a model as a recipe says: from scratch, or from any model that loads.

    \b
    Example:
        pellucid train toy-induction steps=500 seed=3 --out out/toy
        pellucid train toy-induction --print > my-recipe.toml
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.base.errors import OutputError
    from pellucid.train.folder import RECIPE, REPORT
    from pellucid.train.recipe import bundled_recipes, read_recipe
    from pellucid.train.run import train as run

    if recipe is None or (resume and "=" in recipe):
        if not resume or out is None:
            raise typer.BadParameter(f"give a recipe: a TOML file, or one of {', '.join(bundled_recipes())}")
        if not (out / RECIPE).is_file():
            raise OutputError(f"{out} must hold a run to go on with, it has no {RECIPE}; leave --resume out")
        changes, recipe = [*([] if recipe is None else [recipe]), *(changes or [])], str(out / RECIPE)
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
    losses = run.history.values
    return {
        "recipe": run.recipe.to_dict(),
        "loss": {"first": float(losses[0]), "last": float(losses[-1])},
        "heads": _best(run),
        "checkpoints": {str(step): str(path) for step, path in run.checkpoints.items()},
    }


def _best(run: "Run") -> list[dict[str, Any]]:
    """The best head of each role at the end."""
    if "head_roles" not in run.probes:
        return []
    score, control = (run.probes[name] for name in ("head_roles", "head_roles_control"))
    last = score.dataset["step"].values[-1]
    found = []
    for role in score.dataset["role"].values:
        ours, beside = (part.sel(step=last, role=role) for part in (score, control))
        best = ours.best(by=ours - beside)
        layer, head = (int(best.dataset[axis].values[0]) for axis in ("layer", "head"))
        n = ours.shape[0] // 2
        low, high = (float(best.dataset[side].values[0]) for side in ("low", "high"))
        row = {"role": str(role), "head": f"{layer}.{head}", "score": float(best.values[0]), "prompts": n}
        row |= {"low": low, "high": high, "control": beside.sel(layer=layer, head=head).mean("prompt").item()}
        found.append(row)
    return found


def _print(run: "Run") -> None:
    """Where the loss went, and which heads there are."""
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
        for row in _best(run)
    ]
    if rows:
        print_table(["role", "best head", "score", "95 % interval", "control"], rows)
        typer.echo("Attention mass on tokens that repeat; each head chosen on half of the prompts.")
