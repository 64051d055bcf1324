"""`pellucid heads`: how strongly each head plays each role, with interval and control."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.options import AsJson, Batch, Debug, Model, Seed, SeqLen, loaded, print_json, say
from pellucid.cli.tables import NONE, interval, number, print_table, print_tokens

if TYPE_CHECKING:
    from pellucid.analysis.heads import RoleScores
    from pellucid.analysis.zoo_scores import Found, HeadRow, Zoo
    from pellucid.hooked_transformer import HookedTransformer

CLEAR = 0.4
"""A score this far above its control is printed in bold."""
SHOWN = 10
"""Heads of a role that are printed."""
ALL = "all"
"""Stands for every role."""

Roles = Annotated[
    list[str] | None,
    typer.Option(
        "--role",
        metavar="NAME",
        help="Every head in this role, best first; may be given several times. 'all': every role there is.",
    ),
]
OutFile = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.html", help="Write one sortable page of every head in every role (or --role)."),
]


def heads(
    model: Model,
    role: Roles = None,
    seq_len: SeqLen = None,
    batch: Batch = 30,
    seed: Seed = 0,
    out: OutFile = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """What each head attends to, on random tokens that repeat: a table with a row for every head.

    With --role what each head does in that role, told from attention, weights or prompts of a task: previous_token,
    duplicate_token, induction, bos, self, positional_1 (2, 3 …), copying, copy_suppression, successor, q_composition,
    k_composition, v_composition, name_mover, negative, s_inhibition, backup.

    \b
    Example:
        pellucid heads --model toy-induction
        pellucid heads --model toy-induction --role induction --role copying
        pellucid heads --model toy-induction --out heads.html
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    names = _names(role or ([ALL] if out is not None else []))
    read = loaded(model)
    if not role:
        _attention(model, read, seq_len, batch, seed, as_json)
    if not names:
        return
    from pellucid.analysis.reading import about_bos

    say("roles of every head")
    found = _zoo(read, names, seq_len, batch, seed)
    if role and as_json:
        print_json(_told(model, found))
    elif role:
        print_roles(model, found, about_bos(read))
    if out is not None:
        from pellucid.studies.heads_page import heads_page

        heads_page(model, found).save(out)
        say(f"page written to {out}")


def _attention(
    model: str, read: "HookedTransformer", seq_len: int | None, batch: int, seed: int, as_json: bool
) -> None:
    """The roles of attention, side by side."""
    from pellucid.analysis.heads import role_scores
    from pellucid.analysis.reading import about_bos
    from pellucid.analysis.repeated import repeated_tokens

    tokens = repeated_tokens(read, seq_len=seq_len, batch=batch, seed=seed)
    say("attention of every head")
    scores = role_scores(read, tokens)
    if as_json:
        record = scores.score.record.to_dict()
        print_json({"model": model, "record": record, "bos": about_bos(read), "heads": _cells(scores)})
        return
    print_tokens(model, tokens.settings, seed, about_bos(read))
    print_heads(_cells(scores))
    typer.echo()
    if batch == 1:
        typer.echo("Attention mass on one prompt, which has no interval.")
    else:
        typer.echo(f"Attention mass, mean and 95 % interval (Student's t over {batch} prompts).")
    typer.echo("control: the same stripe on tokens that do not repeat.")
    typer.echo("For the other roles the control is uniform attention, in the first row.")


def _names(asked: list[str]) -> list[str]:
    """Names of roles, each once; that they exist is checked before a model is loaded."""
    from pellucid.analysis.zoo_roles import ZOO, role_named

    names = [each for name in asked for each in (ZOO if name == ALL else [role_named(name).name])]
    return list(dict.fromkeys(names))


def _zoo(read: "HookedTransformer", names: list[str], seq_len: int | None, batch: int, seed: int) -> "Zoo":
    """All of these roles, those of a task too."""
    from pellucid.analysis.zoo_scores import Zoo, zoo
    from pellucid.studies.heads_page import TASK_ROLES, task_roles

    plain = [name for name in names if name not in TASK_ROLES]
    found = dict(zoo(read, plain, seq_len=seq_len, batch=batch, seed=seed).found)
    found |= task_roles(read, [name for name in names if name in TASK_ROLES], seed=seed)
    return Zoo({name: found[name] for name in names})


def print_roles(model: str, found: "Zoo", about_bos: str) -> None:
    """For each role a table of its best heads, what they are compared with, and what that means."""
    read = [found.found[name].score for name in found.scores if found.found[name].role.kind == "attention"]
    if read and read[0] is not None:
        print_tokens(model, read[0].record.settings, read[0].record.seed, about_bos)
    else:
        typer.echo(f"model   {model}")
    for name, one in found.found.items():
        typer.echo(f"\n{name}: a head that {one.role.about}")
        rows = one.rows()
        if not rows:
            typer.echo(f"  none: {one.reason or 'the model has no attention heads'}")
            continue
        unit, sure = one.score.unit if one.score is not None else "", one.test is not None
        columns = ["head", unit, *(["95 % interval"] if sure else []), "control", *(["p"] if sure else []), "clear"]
        columns += ["with"] if one.partners else []
        print_table(columns, [_line(row, one) for row in rows[:SHOWN]])
        typer.echo()
        if len(rows) > SHOWN:
            typer.echo(f"  … and {len(rows) - SHOWN} more heads; --json and --out have all")
        typer.echo(f"  control: {one.role.control}; clear: {one.role.least:g} above it or more{_tested(one, found)}")
        _print_best(one)


def _tested(one: "Found", found: "Zoo") -> str:
    if one.test is not None:
        return f", and p ≤ {one.alpha:g} ({found.correction})"
    told_by_prompts = one.score is not None and "prompt" in one.score.dims
    return (
        "; one prompt: no test" if told_by_prompts else "\n  from the weights: no prompts, so no interval and no test"
    )


def _print_best(one: "Found") -> None:
    """The best head's score, where the choice does not flatter it."""
    best = one.best()
    if best is None or not best.values.size:
        return
    value, low, high = (float(x.ravel()[0]) for x in (best.values, *(best.dataset[k].values for k in ("low", "high"))))
    label = best.labels[0]
    typer.echo(f"  {label}, best on one half of the prompts, has {number(value)} {interval(low, high)} on the other")


def _line(row: "HeadRow", one: "Found") -> list[str]:
    verdict = {True: "yes", False: "no", None: "untested"}[row.plays]
    cells = [row.head, number(_finite(row.score))]
    if one.test is not None:
        cells.append(interval(_finite(row.low), _finite(row.high)).replace("[", "\\["))
    cells.append(number(_finite(row.control)))
    if one.test is not None:
        cells.append(NONE if math.isnan(row.p) else f"{row.p:.2g}")
    return [*cells, verdict, *([row.partner or NONE] if one.partners else [])]


def _told(model: str, found: "Zoo") -> dict[str, Any]:
    """Every number, as JSON has it."""
    roles = {}
    for name, one in found.found.items():
        rows = [
            {key: _finite(x) if isinstance(x, float) else x for key, x in row._asdict().items()} for row in one.rows()
        ]
        told: dict[str, Any] = {"about": one.role.about, "control": one.role.control, "kind": one.role.kind}
        told |= {"least": one.role.least, "unit": one.score and one.score.unit, "reason": one.reason or None}
        roles[name] = told | {"record": one.score and one.score.record.to_dict(), "heads": rows}
    return {"model": model, "correction": found.correction, "roles": roles}


def _cells(scores: "RoleScores") -> list[dict[str, Any]]:
    """For each head, each role's score, interval and control; a role that the model cannot have is null."""
    import numpy as np

    from pellucid.analysis.heads import ROLES

    means = scores.score.mean("prompt").dataset
    parts = {"score": means["value"], "low": means["low"], "high": means["high"]}
    arrays = {name: part.values for name, part in parts.items()} | {"control": scores.control.mean("prompt").values}
    had = means["role"].values.tolist()
    rows = []
    for layer, head in np.ndindex(arrays["score"].shape[1:]):
        row: dict[str, Any] = {"head": f"{layer}.{head}"}
        for role in ROLES:
            place = (had.index(role.name), layer, head) if role.name in had else None
            row[role.name] = place and {name: _finite(array[place]) for name, array in arrays.items()}
        rows.append(row)
    return rows


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def print_heads(rows: list[dict[str, Any]]) -> None:
    """A table with a row for each head."""
    from pellucid.analysis.heads import ROLES

    columns = ["head"]
    uniform = ["uniform"]
    for role in ROLES:
        columns += [role.name.replace(" ", "\n"), "control"] if role.repeated else [role.name.replace(" ", "\n")]
        first = rows[0][role.name] if rows else None
        uniform += ["", ""] if role.repeated else [_short(first and first["control"])]
    table = [uniform]
    for row in rows:
        cells = [row["head"]]
        for role in ROLES:
            cells += _words(row[role.name], with_control=role.repeated)
        table.append(cells)
    print_table(columns, table, gap=1)


def _words(cell: dict[str, float | None] | None, *, with_control: bool) -> list[str]:
    if cell is None or cell["score"] is None:
        return [NONE, ""] if with_control else [NONE]
    half = "" if cell["high"] is None else f" ±{cell['high'] - cell['score']:.2f}"
    words = f"{cell['score']:.2f}{half}"
    if cell["control"] is not None and cell["score"] - cell["control"] >= CLEAR:
        words = f"[bold]{words}[/bold]"
    return [words, _short(cell["control"])] if with_control else [words]


def _short(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
