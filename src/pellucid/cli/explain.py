"""`pellucid explain`: one page about one prompt."""

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli.options import AsJson, Debug, Model, Replace, check_page, loaded, print_json, say
from pellucid.cli.tables import number, print_table

Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="What the model reads.")]
Answer = Annotated[str, typer.Option("--answer", metavar="A", help="What should come next, one token.")]
Wrong = Annotated[
    str | None,
    typer.Option("--wrong", metavar="B", help="What should not; if not told, the most probable other token."),
]
Corrupted = Annotated[
    str | None,
    typer.Option("--corrupted", metavar="TEXT", help="As many tokens, where A is not right: parts are patched."),
]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the page, as .html.")]


def explain(
    prompt: Prompt,
    model: Model,
    answer: Answer,
    wrong: Wrong = None,
    corrupted: Corrupted = None,
    out: OutFile = None,
    overwrite: Replace = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Can the model do it, what does it say instead, and which parts matter: one page about a prompt of your own.

    Without --corrupted, parts are set to zero instead of patched.

    \b
    Example:
        pellucid explain "5 9 7 3 5 9" --answer 7 --corrupted "5 9 4 3 5 9" --model toy-induction --out page.html
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.studies.explain import explain as find

    check_page(out, overwrite=overwrite)
    read = loaded(model)
    say("looking at the prompt")
    found = find(read, prompt, answer=answer, wrong=wrong, corrupted=corrupted)
    if out is not None:
        found.page().save(out)
    components = found.components.mean("prompt")
    parts = dict(zip(components.labels, map(float, components.values), strict=True))
    if as_json:
        told = {
            name: getattr(found, name) for name in ("model", "prompt", "corrupted", "answer", "wrong", "difference")
        }
        told |= {"probability": found.probability, "rank": found.rank, "said": [list(pair) for pair in found.said]}
        print_json(told | {"components": parts, "heads": dict(found.top_heads())})
        return
    typer.echo(f"{found.verdict}. {found.answer!r}: {found.probability:.1%}, rank {found.rank} (0 is on top)")
    typer.echo(f"logit of {found.answer!r} minus that of {found.wrong!r}: {found.difference:+.3f}")
    print_table(["says", "probability"], [[repr(token), f"{share:.1%}"] for token, share in found.said])
    largest = sorted(parts.items(), key=lambda part: -abs(part[1]))[:8]
    print_table(["part", "writes, logits"], [[name, number(value)] for name, value in largest])
    how = "patched" if found.corrupted else "set to zero"
    print_table([f"head, {how}", "effect, logits"], [[name, number(value)] for name, value in found.top_heads()])
    if not found.corrupted:
        typer.echo("No corrupted prompt was given: parts were set to zero, which is cruder than patching.")
    if out is not None:
        typer.echo(f"Written to {out}")
