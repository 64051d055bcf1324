"""`pellucid heads`: how strongly each head plays each role, with interval and control."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.options import (
    AsJson,
    Batch,
    Debug,
    Model,
    Replace,
    Seed,
    SeqLen,
    check_page,
    loaded,
    print_json,
    say,
)
from pellucid.cli.tables import NONE, interval, number, print_table, print_tokens

if TYPE_CHECKING:
    from pellucid.analysis.zoo_found import Found, HeadRow
    from pellucid.analysis.zoo_scores import Zoo
    from pellucid.hooked_transformer import HookedTransformer
    from pellucid.measurement import Measurement

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
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--texts",
        metavar="FILE",
        help="Texts whose shuffled tokens the positional roles are told from; may be given several times.  "
        "[default: random tokens]",
    ),
]


def heads(
    model: Model,
    role: Roles = None,
    seq_len: SeqLen = None,
    batch: Batch = 30,
    seed: Seed = 0,
    texts: Texts = None,
    out: OutFile = None,
    overwrite: Replace = False,
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
    check_page(out, overwrite=overwrite)
    _check(texts, names)
    read = loaded(model)
    asked = {"seq_len": seq_len, "batch": batch, "seed": seed}
    found = _zoo(read, names, texts, asked) if names else None
    if not role:
        _attention(model, read, found, asked, as_json)
    elif found is not None and as_json:
        print_json(_told(model, found))
    elif found is not None:
        from pellucid.analysis.reading import about_bos

        print_roles(model, found, about_bos(read))
    if out is not None and found is not None:
        from pellucid.studies.heads_page import heads_page

        heads_page(model, found).save(out)
        say(f"page written to {out}")


def _check(texts: list[str] | None, names: list[str]) -> None:
    """What can be known to be wrong before a model is loaded."""
    from pellucid.analysis.zoo_roles import POSITIONAL
    from pellucid.base.errors import ArgumentError

    if texts and not any(name.startswith(POSITIONAL) for name in names):
        raise ArgumentError("--texts is for positional roles, got none of them; add --role positional_1, or --out")


def _attention(
    model: str, read: "HookedTransformer", found: "Zoo | None", asked: dict[str, Any], as_json: bool
) -> None:
    """The roles of attention, side by side; from the zoo, where that was made."""
    from pellucid.analysis.heads import ROLES
    from pellucid.analysis.reading import about_bos
    from pellucid.analysis.repeated import repeated_tokens
    from pellucid.analysis.zoo_attention import attention_roles
    from pellucid.analysis.zoo_scores import STRIPES

    tokens = repeated_tokens(read, **asked)
    if found is None:
        say("attention of every head")
        made = attention_roles(read, tokens, [role for role in ROLES if tokens.bos or not role.to_bos])
    else:
        known = {role.name: found[name] for name, role in STRIPES.items()}
        made = {
            name: (x.score, x.control) for name, x in known.items() if x.score is not None and x.control is not None
        }
    about, cells = about_bos(read), _cells(made)
    if as_json:
        record = next(iter(made.values()))[0].record.add(task="head roles").to_dict() if made else None
        print_json({"model": model, "record": record, "bos": about, "heads": cells})
        return
    print_tokens(model, tokens.settings, asked["seed"], about)
    print_heads(cells)
    typer.echo()
    if asked["batch"] == 1:
        typer.echo("Attention mass on one prompt, which has no interval.")
    else:
        typer.echo(f"Attention mass, mean and 95 % interval (Student's t over {asked['batch']} prompts).")
    typer.echo("control: the same stripe on tokens that do not repeat.")
    typer.echo("For the other roles the control is uniform attention, in the first row.")
    typer.echo(f"bold: {_least():g} above the control or more; --role NAME tests it.")


def _least() -> float:
    """From what distance to its control on a score of attention is printed in bold: what each role asks for."""
    from pellucid.analysis.zoo_roles import ZOO

    return ZOO["induction"].least


def _names(asked: list[str]) -> list[str]:
    """Names of roles, each once; that they exist is checked before a model is loaded."""
    from pellucid.analysis.zoo_roles import ZOO, role_named

    names = [each for name in asked for each in (ZOO if name == ALL else [role_named(name).name])]
    return list(dict.fromkeys(names))


def _zoo(read: "HookedTransformer", names: list[str], texts: list[str] | None, asked: dict[str, Any]) -> "Zoo":
    """All of these roles, those of a task too."""
    from pellucid.analysis.zoo_scores import Zoo, zoo
    from pellucid.studies.heads_page import TASK_ROLES, task_roles
    from pellucid.text.corpus import Corpus

    say("roles of every head")
    corpus = None if not texts else Corpus(source=tuple(texts))
    found = dict(zoo(read, [name for name in names if name not in TASK_ROLES], texts=corpus, **asked).found)
    found |= task_roles(read, [name for name in names if name in TASK_ROLES], seed=asked["seed"])
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
        columns = _columns(one, rows)
        print_table(list(columns), [[cell(row) for cell in columns.values()] for row in rows[:SHOWN]])
        typer.echo()
        if len(rows) > SHOWN:
            typer.echo(f"  … and {len(rows) - SHOWN} more heads; --json and --out have all")
        _print_about(one)


def _columns(one: "Found", rows: list["HeadRow"]) -> dict[str, Callable[["HeadRow"], str]]:
    """What is printed of each head, by the column's heading."""
    unit = "" if one.score is None else one.score.unit
    columns: dict[str, Callable[[HeadRow], str]] = {"head": lambda row: row.head}
    columns[unit] = lambda row: number(_finite(row.score))
    if any(math.isfinite(row.low) for row in rows):
        columns["95 % interval"] = lambda row: interval(_finite(row.low), _finite(row.high)).replace("[", "\\[")
    columns["control"] = lambda row: number(_finite(row.control))
    if one.test is not None:
        columns["p"] = lambda row: NONE if math.isnan(row.p) else f"{row.p:.2g}"
    if one.share is not None:
        columns[str(one.share.name)] = lambda row: number(row.share)
    columns["clear"] = lambda row: row.verdict
    if one.partners:
        columns["with"] = lambda row: row.partner or NONE
    return columns


def _print_about(one: "Found") -> None:
    """What heads were compared with, how, which cannot play the role, and the best head's score without flattery."""
    clear = f"clear: {one.role.least:g} above it or more" + (f", and p ≤ {one.alpha:g}" if one.test is not None else "")
    typer.echo(f"  control: {one.role.control}; {clear}\n  {one.how}")
    if one.role.note:
        typer.echo(f"  {one.role.note}")
    for why, barred in one.bars().items():
        typer.echo(f"  cannot: {why} ({' '.join(barred[:SHOWN])}{' …' if len(barred) > SHOWN else ''})")
    if one.reason:
        typer.echo(f"  none: {one.reason}")
    best = one.best()
    if best is not None:
        parts = (best.values, *(best.dataset[key].values for key in ("low", "high")))
        value, low, high = (_finite(x.ravel()[0]) for x in parts)
        sure = interval(low, high) or "(once: no interval)"
        typer.echo(f"  {best.labels[0]}, best on one half of the {one.unit}, has {number(value)} {sure} on the other")


def _told(model: str, found: "Zoo") -> dict[str, Any]:
    """Every number, as JSON has it."""
    roles = {}
    for name, one in found.found.items():
        rows = [
            {key: _finite(x) if isinstance(x, float) else x for key, x in row._asdict().items()} for row in one.rows()
        ]
        told: dict[str, Any] = {"about": one.role.about, "control": one.role.control, "kind": one.role.kind}
        told |= {"least": one.role.least, "unit": one.score and one.score.unit, "reason": one.reason or None}
        told |= {"note": one.role.note or None, "test": one.how or None, "alpha": one.alpha}
        roles[name] = told | {"record": one.score and one.score.record.to_dict(), "heads": rows}
    return {"model": model, "correction": found.correction, "roles": roles}


def _cells(scores: Mapping[str, tuple["Measurement", "Measurement"]]) -> list[dict[str, Any]]:
    """For each head, each role's score, interval and control; a role that the model cannot have is null."""
    import numpy as np

    from pellucid.analysis.heads import ROLES

    told: dict[str, dict[str, np.ndarray]] = {}
    for name, (score, control) in scores.items():
        means = score.mean("prompt").dataset
        told[name] = {"score": means["value"].values, "low": means["low"].values, "high": means["high"].values}
        told[name]["control"] = control.mean("prompt").values
    shape = next((of["score"].shape for of in told.values()), (0, 0))
    rows = []
    for at in np.ndindex(shape):
        row: dict[str, Any] = {"head": f"{at[0]}.{at[1]}"}
        for role in ROLES:
            of = told.get(role.name)
            row[role.name] = of and {name: _finite(array[at]) for name, array in of.items()}
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
    if cell["control"] is not None and cell["score"] - cell["control"] >= _least():
        words = f"[bold]{words}[/bold]"
    return [words, _short(cell["control"])] if with_control else [words]


def _short(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
