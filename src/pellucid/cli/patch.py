"""`pellucid patch`: puts parts of one run into the other, and shows which of them move the metric."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pellucid.cli.options import AsJson, Debug, Model, Out, Overwrite, loaded, print_json
from pellucid.cli.tables import interval, number, print_table

if TYPE_CHECKING:
    from pellucid.hooked_transformer import HookedTransformer
    from pellucid.measurement import Measurement
    from pellucid.tasks.metrics import RowMetric
    from pellucid.tasks.pairs import Pairs
    from pellucid.text.tokenizer import Tokenizer

JOURNAL = "journal"
EFFECT = "effect.nc"

Clean = Annotated[str | None, typer.Option("--clean", metavar="TEXT", help="The prompt that the behaviour shows on.")]
Corrupted = Annotated[
    str | None, typer.Option("--corrupted", metavar="TEXT", help="A prompt of as many tokens, without it.")
]
Answer = Annotated[list[str] | None, typer.Option("--answer", metavar="A", help="The right answer, one token.")]
Wrong = Annotated[list[str] | None, typer.Option("--wrong", metavar="B", help="The wrong answer, one token.")]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="ioi, greater_than, … or a CSV or JSONL file: clean, corrupted, answer, wrong, group, frame.",
    ),
]
N = Annotated[int | None, typer.Option("--prompts", min=1, metavar="N", help="Prompts of the task.")]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the prompts.")]
Site = Annotated[str, typer.Option("--site", metavar="SITE", help="What is patched: resid_pre, z, mlp_out, q, post …")]
Over = Annotated[str, typer.Option("--over", metavar="AXES", help="Which cells: layer,pos or layer,head or …")]
Paths = Annotated[bool, typer.Option("--paths", help="Patch edges, from --senders to --receivers.")]
Senders = Annotated[str, typer.Option("--senders", metavar="PARTS", help="Such as embed,heads,mlp3,L8N2744.")]
Receivers = Annotated[str, typer.Option("--receivers", metavar="PARTS", help="Such as heads:q,9.6:k,mlps,logits.")]
Through = Annotated[
    str, typer.Option("--through", metavar="WHAT", help="edge (if not told), mlps or all: what is recomputed between.")
]
Method = Annotated[
    str | None,
    typer.Option("--method", metavar="NAME", help="Estimate by atp, atp*, ig-inputs, ig-activations instead."),
]
Steps = Annotated[
    int | None, typer.Option("--steps", min=1, metavar="N", help="Of integrated gradients; 16 if not told.")
]
Direction = Annotated[str, typer.Option("--direction", metavar="WAY", help="denoise or noise.")]
MetricName = Annotated[
    str | None,
    typer.Option("--metric", metavar="NAME", help="LogitDiff, Logit, LogProb, Rank, KL, Accuracy or Loss."),
]
Freeze = Annotated[str, typer.Option("--freeze", metavar="WHAT", help="ln_scale, pattern: held as they were.")]
MaxMemory = Annotated[str | None, typer.Option("--max-memory", metavar="SIZE", help="Such as 2GB.")]
Top = Annotated[int, typer.Option("--top", min=1, metavar="N", help="Cells that are printed.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue what was interrupted in DIR.")]
Explain = Annotated[bool, typer.Option("--explain", help="Say what would run, and end.")]


def patch(
    model: Model,
    site: Site = "",
    over: Over = "",
    paths: Paths = False,
    senders: Senders = "",
    receivers: Receivers = "",
    through: Through = "",
    method: Method = None,
    steps: Steps = None,
    clean: Clean = None,
    corrupted: Corrupted = None,
    answer: Answer = None,
    wrong: Wrong = None,
    task: TaskName = None,
    n: N = None,
    seed: Seed = 0,
    direction: Direction = "denoise",
    metric: MetricName = None,
    freeze: Freeze = "",
    max_memory: MaxMemory = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    top: Top = 10,
    explain: Explain = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Put parts of one run into the other, each part alone, and see which of them move the metric.

    Positions are named in the text by brackets, as in "[subject: Mary] gave", for --over layer,position.

    \b
    Example:
        pellucid patch --model toy-induction --site z --over layer,head \\
            --clean "5 9 7 3 5 9" --corrupted "5 9 4 3 5 9" --answer 7 --wrong 4
        pellucid patch --model toy-induction --paths --senders embed,heads --receivers heads,logits \\
            --clean "5 9 7 3 5 9" --corrupted "5 9 4 3 5 9" --answer 7 --wrong 4
        pellucid patch --model toy-ioi --task ioi --site resid_pre --over layer,position
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    text = {"--clean": clean, "--corrupted": corrupted, "--answer": answer, "--wrong": wrong}
    _check_prompts(text, task)
    _check_question(site, over, senders, receivers, paths=paths, estimated=method is not None, explain=explain)
    _check_idle(freeze, through, steps, paths=paths, method=method, resume=resume)
    _check_drawn(task, n, seed)
    if out is not None:
        _check_folder(out, resume=resume, overwrite=overwrite)
    read = loaded(model)
    prompts, own = _prompts(read, clean, corrupted, answer, wrong) if task is None else _of_task(read, task, n, seed)
    asked: dict[str, Any] = {"direction": direction, "metric": _metric(metric) or own, "max_memory": max_memory}
    exact: dict[str, Any] = {"journal": None if out is None else out / JOURNAL}
    estimated = {} if method is None else {"method": method, "steps": steps or 16}
    explained = ""
    if paths:
        asked |= {"senders": senders, "receivers": receivers, "over": over or None}
        effect = _edges(read, prompts, asked, {"through": through or "edge", **exact}, estimated)
    else:
        asked |= {"site": _names(site), "over": _names(over)}
        if method is None:
            exact["freeze"] = _names(freeze)
            explained = _explained(read, prompts, asked | exact)
        if explain:
            typer.echo(explained)
            return
        effect = _cells(read, prompts, asked, exact, estimated)
    if out is not None:
        _save(out, effect, model, prompts, explained)
    if as_json:
        print_json(_values(effect, model))
        return
    _print(effect, model, top)
    if out is not None:
        typer.echo(f"Written to {out / EFFECT}")
        typer.echo(f"Report: {out / 'report.html'}")


def _explained(model: "HookedTransformer", pairs: "Pairs", asked: dict[str, Any]) -> str:
    from pellucid.patching import plan

    return plan(model, pairs, **{name: value for name, value in asked.items() if name != "journal"}).explain()


def _cells(
    model: "HookedTransformer",
    pairs: "Pairs",
    asked: dict[str, Any],
    exact: dict[str, Any],
    estimated: dict[str, Any],
) -> "Measurement":
    from pellucid.patching import attribute, sweep

    return attribute(model, pairs, **asked, **estimated) if estimated else sweep(model, pairs, **asked, **exact)


def _edges(
    model: "HookedTransformer",
    pairs: "Pairs",
    asked: dict[str, Any],
    exact: dict[str, Any],
    estimated: dict[str, Any],
) -> "Measurement":
    from pellucid.patching import attribute_paths, paths

    return attribute_paths(model, pairs, **asked, **estimated) if estimated else paths(model, pairs, **asked, **exact)


def _check_question(
    site: str, over: str, senders: str, receivers: str, *, paths: bool, estimated: bool, explain: bool
) -> None:
    if paths and not (senders and receivers):
        raise typer.BadParameter("--paths goes with --senders and --receivers; such as --senders heads")
    if paths and site:
        raise typer.BadParameter("--paths patches edges, --site cells; leave one of them out")
    if not paths and (senders or receivers):
        raise typer.BadParameter("--senders and --receivers go with --paths; add it")
    if not paths and not (site and over):
        raise typer.BadParameter("give --site and --over, or --paths with --senders and --receivers")
    if explain and (paths or estimated):
        raise typer.BadParameter("--explain tells how a sweep is run; leave out --paths and --method, or --explain")


def _check_idle(freeze: str, through: str, steps: int | None, *, paths: bool, method: str | None, resume: bool) -> None:
    """Whether each option that is given means something."""
    if freeze and (paths or method is not None):
        raise typer.BadParameter("--freeze is for exact sweeps of cells; leave it out, or --paths and --method")
    if through and (not paths or method is not None):
        raise typer.BadParameter("--through is for exact edges; it goes with --paths, and without --method")
    if steps is not None and not (method or "").startswith("ig"):
        raise typer.BadParameter("--steps goes with --method ig-inputs or ig-activations")
    if resume and method is not None:
        raise typer.BadParameter("--resume is for exact sweeps; estimates are made at once")


def _check_drawn(task: str | None, n: int | None, seed: int) -> None:
    if task is None and (n is not None or seed):
        raise typer.BadParameter("--prompts and --seed are of a task; they go with --task")


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _check_prompts(text: dict[str, Any], task: str | None) -> None:
    given = [name for name, value in text.items() if value]
    if task is not None and given:
        raise typer.BadParameter(f"--task has the prompts; leave {', '.join(given)} out")
    if task is None and not {"--clean", "--corrupted"} <= set(given):
        raise typer.BadParameter("give --clean and --corrupted, or --task TASK")


def _check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    from pellucid.base.errors import OutputError

    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} must be a folder for the results, it is a file; choose another place")
    begun, done = (out / JOURNAL).exists(), (out / EFFECT).exists()
    if overwrite:
        shutil.rmtree(out / JOURNAL, ignore_errors=True)
    elif done:
        raise OutputError(f"{out} must not hold results already, it has {EFFECT}; add --overwrite")
    elif begun and not resume:
        raise OutputError(f"{out} holds a sweep that was interrupted; add --resume to continue it, or --overwrite")


def _metric(name: str | None) -> "RowMetric | None":
    from pellucid.base.errors import UnknownNameError, nearest
    from pellucid.tasks.metrics import METRICS

    if name is None:
        return None
    if name not in METRICS:
        raise UnknownNameError(f"metric must be a known one, got {name!r}{nearest(name, METRICS)}")
    return METRICS[name]()


def _prompts(
    model: "HookedTransformer",
    clean: str | None,
    corrupted: str | None,
    answer: list[str] | None,
    wrong: list[str] | None,
) -> tuple["Pairs", "RowMetric | None"]:
    from pellucid.tasks.pairs import Pairs

    right, left = ([several] if several else None for several in (answer, wrong))
    return Pairs.from_text(_tokenizer(model), [str(clean)], [str(corrupted)], answer=right, wrong=left), None


def _of_task(model: "HookedTransformer", name: str, n: int | None, seed: int) -> tuple["Pairs", "RowMetric | None"]:
    """Prompts of a task or of a file, and its metric."""
    from pellucid.tasks.known import named

    tokenizer = _tokenizer(model)
    found = named(name, tokenizer)
    return found.pairs(tokenizer, n=n, seed=seed), found.metric


def _tokenizer(model: "HookedTransformer") -> "Tokenizer":
    from pellucid.base.errors import TokenError

    if model.tokenizer is None:
        raise TokenError("text needs a tokenizer, and this model came without one; sweep its token ids in Python")
    return model.tokenizer


def _save(out: Path, effect: "Measurement", model: str, pairs: "Pairs", explained: str) -> None:
    from pellucid.base.files import written_aside
    from pellucid.report.sweep import sweep_page

    page = sweep_page(effect, model=model, texts=pairs.text or (), explained=explained)
    with written_aside(out) as aside:
        aside.mkdir()
        page.save(aside / "report.html")
        effect.save(aside / EFFECT)
    shutil.rmtree(out / JOURNAL, ignore_errors=True)


def _values(effect: "Measurement", model: str) -> dict[str, Any]:
    from pellucid.report.sweep import largest

    data = effect.dataset
    return {
        "model": model,
        "record": effect.record.to_dict(),
        "unit": effect.unit,
        **{side: data[side].values.tolist() for side in ("clean", "corrupted")},
        "cells": [vars(cell) for cell in largest(effect, effect.values[0].size)],
    }


def _print(effect: "Measurement", model: str, top: int) -> None:
    from pellucid.report.sweep import PUT, largest

    data, settings, n = effect.dataset, effect.record.settings, effect.shape[0]
    clean, corrupted = (float(data[side].values.mean()) for side in ("clean", "corrupted"))
    prompts = "one prompt" if n == 1 else f"{n} prompts"
    typer.echo(f"model   {model}")
    typer.echo(f"metric  {settings['metric']}, {prompts}: clean {clean:.3f}, corrupted {corrupted:.3f} {effect.unit}")
    typer.echo(f"{PUT[settings['direction']]}, each part alone.")
    sizes = "unsigned" in settings
    if "method" in settings:
        typer.echo(f"Estimated from gradients, by {settings['method']}{': sizes, without a sign' if sizes else ''}.")
    rows = []
    for cell in largest(effect, top):
        words = [number(cell.effect)] if sizes else [number(cell.value), number(cell.effect)]
        rows.append([cell.label, *words, *([interval(cell.low, cell.high)] if n > 1 else [])])
        if not sizes:
            rows[-1].append(number(cell.fraction))
    sure = ["95 % interval"] if n > 1 else []
    heads = ["cell", f"size, {effect.unit}", *sure] if sizes else ["cell", effect.unit, "effect", *sure, "fraction"]
    print_table([" × ".join(effect.dims[1:]) or heads[0], *heads[1:]], rows)
    if not sizes:
        typer.echo("fraction: 0 is the corrupted run, 1 the clean one.")
