"""prose-2l-mixed, the bundled model that takes a sentence: trained, put to the test, and written with its true figures.

Two layers of attention alone learn English prose, and in some rows, fewer and fewer, a passage stands twice. Run it by
`make models NAME=prose-2l-mixed`: some 75 minutes on one core; a run that was interrupted, or has ended, is gone on
with. The text is the recipe's `data.source`, a folder of public-domain books that is not part of Pellucid.
"""

import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid import HookedTransformer
from pellucid.analysis.heads import INDUCTION, PREVIOUS
from pellucid.analysis.repeated import repeated_tokens
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.maths.statistics import effect, split
from pellucid.studies.induction import CUT, induction
from pellucid.studies.result import Figure, StudyResult
from pellucid.text.corpus import Corpus
from pellucid.text.packing import Packed, held_out
from pellucid.train import Run, Text, read_recipe, train
from pellucid.train.folder import MADE_WITH, RECIPE
from pellucid.train.log import METRICS
from pellucid.train.probes import in_context, loss_by_position
from pellucid.train.stream import next_tokens

NAME = "prose-2l-mixed"
ABOUT = "English prose, copied passages mixed in"
OUT = Path("out") / NAME
TARGET = Path(__file__).resolve().parents[1] / "src" / "pellucid" / "bundled" / NAME
PERIODS = (10, 25, 50, 100)
PASSAGES = (40, 80, 120)
PROMPTS = 64
EXCESS = "induction_head_excess"
TOLD = ("accuracy_second_half", "induction_head", "induction_head_control", CUT, "previous_token_head")
"""Figures of the study that are told at each period, as those of toy-induction are."""
ALSO = ("accuracy_first_half", "previous_token_head_control")
CLEAR, OFTEN = 0.2, 3
"""Induction − control must lie above this, interval included, at so many periods."""


def main() -> int:
    """Trains, tests and writes the model; 1 if it cannot be trained, or learned nothing."""
    torch.set_num_threads(1)
    recipe = read_recipe(NAME)
    source = Path(recipe.data.source)
    if not source.is_dir():
        print(
            f"{NAME} needs a folder of English prose to learn from, {source} (seen from {Path.cwd()}), one .txt file a "
            "book, and there is none; put it there, or name another as data.source in the recipe",
            file=sys.stderr,
        )
        return 1
    resume = (OUT / RECIPE).exists()
    return finished(train(recipe, out=OUT, resume=resume, device="cpu", shown=True), TARGET)


def finished(run: Run, target: Path) -> int:
    """Puts a trained model to the test and writes it; 1 if it learned nothing."""
    model: HookedTransformer = run.model
    model.record = Record(model=NAME, seed=run.recipe.seed)
    packed = run.recipe.data.packed(model.tokenizer)
    rows = torch.from_numpy(packed.held_out.astype("int64"))
    loss = held_out_loss(model, packed, rows)
    if not loss["nats_per_token"] < loss["unigram_nats_per_token"]:
        print(f"{NAME} predicts no better than counts of tokens, and is not written: {loss}", file=sys.stderr)
        return 1
    studies = {period: at_period(model, period) for period in PERIODS}
    found = {
        "held_out": loss,
        "periods": {period: figures(result) for period, result in studies.items()},
        "silenced": {period: result.record.settings["silenced"] for period, result in studies.items()},
        "passages": {length: twice(model, rows, length) for length in PASSAGES},
    }
    told = card(run, packed, found)
    with written_aside(target) as aside:
        model.save_pretrained(aside, family="pellucid")
        (aside / "card.json").write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (aside / "README.md").write_text(readme(run, told, found), encoding="utf-8")
    print(f"{NAME} is written to {target}. {verdict(found)}", file=sys.stderr)
    return 0


def held_out_loss(model: HookedTransformer, packed: Packed, rows: Tensor) -> dict[str, float | None]:
    """Over all rows of the book that was held out; a token's share in the training text is what it must beat."""
    losses = loss_by_position(model, next_tokens(rows))
    nats = losses.nanmean().item()
    counts = np.bincount(packed.train[:, 1:].ravel(), minlength=model.config.d_vocab) + 1
    unigram = -np.log(counts / counts.sum())[packed.held_out[:, 1:]].mean()
    return {
        "nats_per_token": nats,
        "bits_per_byte": nats / math.log(2) * packed.n_held_out_tokens / packed.n_held_out_bytes,
        "in_context_score": in_context(losses),
        "unigram_nats_per_token": float(unigram),
    }


def at_period(model: HookedTransformer, period: int) -> StudyResult:
    """What the study finds on random tokens that repeat: it chooses heads on half of the prompts."""
    return induction(model, repeated_tokens(model, seq_len=period, batch=PROMPTS, seed=1))


def figures(result: StudyResult) -> dict[str, Figure]:
    """Those that are told, and score − control of the induction head, on the prompts that it was not chosen on."""
    label = result.figures["induction_head"].label
    assert label is not None
    layer, head = map(int, label.split("."))
    excess = result.measurements["head_roles"] - result.measurements["head_roles_control"]
    excess = excess.sel(role=INDUCTION.name, layer=layer, head=head, prompt=list(split(PROMPTS)[1]))
    told = {name: result.figures[name] for name in (*TOLD, *ALSO)}
    return told | {EXCESS: Figure.of(excess.mean("prompt"), label=label)}


@torch.no_grad()
def twice(model: HookedTransformer, rows: Tensor, length: int) -> dict[str, Figure]:
    """The loss on passages that were held out and on their copies, all without their first tokens.

    The second copy has more before it than the first; so it is compared as well with the same passage, at the same
    place, after another one.
    """
    passages = rows[:: len(rows) // PROMPTS][:PROMPTS, 1 : 1 + length]
    bos = rows[: len(passages), :1]
    same, after = (
        model(torch.cat([bos, before, passages], dim=1), return_type="loss", loss_per_token=True).double()
        for before in (passages, passages.roll(1, 0))
    )
    first, second, other = (part.mean(1) for part in (same[:, 1:length], same[:, length + 1 :], after[:, length + 1 :]))
    told = {"first": first, "second": second, "gain": first - second, "other": other, "over_other": other - second}
    return {name: nats(part) for name, part in told.items()}


def nats(values: Tensor) -> Figure:
    """Their mean with its interval."""
    found = effect(values)
    return Figure(unit="nats", value=float(found.mean), low=float(found.low), high=float(found.high))


def verdict(found: Mapping[str, Any]) -> str:
    """Whether it is what it should be, in a sentence or two."""
    clear = [period for period, told in found["periods"].items() if (told[EXCESS].low or 0) > CLEAR]
    lower = [length for length, told in found["passages"].items() if (told["gain"].low or 0) > 0]
    wanted = (
        f"induction − control above {CLEAR} with its whole interval at {OFTEN} of {len(PERIODS)} periods (it is at "
        f"{_listed(clear)}), and a lower loss on the second copy of each length, the interval above 0 (it is at "
        f"{_listed(lower)})"
    )
    if len(clear) >= OFTEN and len(lower) == len(PASSAGES):
        return f"It is what it was made to be: {wanted}."
    return f"**It falls short of what it was made to be**, which asks for {wanted}."


def card(run: Run, packed: Packed, found: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that must be known to make it again, and what came out."""
    assert run.folder is not None
    made_with = json.loads((run.folder / MADE_WITH).read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (run.folder / METRICS).read_text(encoding="utf-8").splitlines()]
    losses, every = run.history.values.tolist(), 100
    return {
        "name": NAME,
        "about": ABOUT,
        "made_by": "models/prose_2l_mixed.py",
        "recipe": run.recipe.to_dict(),
        "seed": run.recipe.seed,
        "torch": made_with["torch"],
        "threads": made_with["threads"],
        "data": {"hash": packed.hash, **sides(run.recipe.data, packed)},
        "training": {
            "tokens": sum(step["tokens"] for step in steps),
            "seconds": round(sum(step["tokens"] / step["tokens_per_second"] for step in steps)),
        },
        "loss": {
            "unit": "nats",
            "mean_of_steps": every,
            "values": [round(fmean(losses[i : i + every]), 4) for i in range(0, len(losses), every)],
        },
        "held_out": {name: value and round(value, 4) for name, value in found["held_out"].items()},
        "figures_by_period": _plain(found["periods"]),
        "silenced_by_period": found["silenced"],
        "passages_twice_by_length": _plain(found["passages"]),
        "heads_over_training": over_training(run),
    }


def sides(data: Text, packed: Packed) -> dict[str, Any]:
    """What was trained on and what was held out; each book's own content decides."""
    books: dict[bool, list[str]] = {False: [], True: []}
    for path in sorted(Path(str(data.source)).rglob("*.txt")):
        (text,) = Corpus(source=str(path))
        books[held_out(text, data.held_out)].append(path.stem)
    assert (len(books[False]), len(books[True])) == (packed.n_documents, packed.n_held_out_documents)
    ours, kept = (packed.n_tokens, packed.n_bytes), (packed.n_held_out_tokens, packed.n_held_out_bytes)
    return {
        name: {"documents": books[is_kept], "tokens": tokens, "bytes": n_bytes}
        for name, is_kept, (tokens, n_bytes) in (("trained_on", False, ours), ("held_out", True, kept))
    }


def over_training(run: Run) -> dict[str, Any]:
    """Every head's score and its control at some twenty steps of the run, the mean over the probes' prompts."""
    probes = {what: run.probes[name] for what, name in (("score", "head_roles"), ("control", "head_roles_control"))}
    measured = probes["score"].dataset["step"].values
    wanted = np.geomspace(1, measured[-1], 24)
    chosen = sorted({0, *(int(measured[np.abs(measured - step).argmin()]) for step in wanted)})
    told: dict[str, Any] = {"steps": chosen}
    for role in (INDUCTION.name, PREVIOUS.name):
        heads = told[role] = {}
        for what, probe in probes.items():
            mean = probe.sel(role=role, step=chosen).mean("prompt")
            for layer, head in np.ndindex(mean.shape[1:]):
                values = [round(value, 4) for value in mean.sel(layer=layer, head=head).values.tolist()]
                heads.setdefault(f"{layer}.{head}", {})[what] = values
    return told


def readme(run: Run, told: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The same for people."""
    recipe, config, loss, data = run.recipe, run.model.config, told["held_out"], told["data"]
    copies, minutes = recipe.data.copies, told["training"]["seconds"] / 60
    layers = getattr(config.positions, "layers", None)
    where = "" if layers is None else f" in the first layer{'' if layers == 1 else f's, {layers} of them'}"
    what = f"""
{ABOUT}: a transformer of two attention-only layers (d_model {config.d_model}, {config.attention.n_heads} heads of
{config.attention.d_head}, context {config.n_ctx}, shortformer positions, which join what queries and keys
read{where}, and nothing else), with a byte-pair vocabulary of its own ({config.d_vocab:,} tokens, BOS in front). It
was trained by `models/prose_2l_mixed.py` after the recipe `{NAME}`, from seed {recipe.seed}: {recipe.steps:,} steps of
{recipe.batch_size} rows of {recipe.data.length} tokens, {minutes:.0f} minutes on a thread. Why "mixed": in a share of
the rows, {copies.share:.0%} at first and {copies.last_share:.0%} in the end, a passage of {copies.shortest} to
{copies.longest} tokens was copied, and so stands twice."""
    text = f"""
It read these public-domain books: {", ".join(data["trained_on"]["documents"])}. Held out, also from the making of the
vocabulary: {", ".join(data["held_out"]["documents"])}. Loss on all that was held out:
**{loss["nats_per_token"]:.3f} nats per token**, **{loss["bits_per_byte"]:.3f} bits per byte** (shares of tokens alone:
{loss["unigram_nats_per_token"]:.3f} nats per token); in-context score, late minus early,
{loss["in_context_score"]:.3f} nats."""
    return f"""# {NAME}

{_wrapped(what)}

{_wrapped(text)}

{_wrapped(verdict(found))}

Random tokens that stand twice, {PROMPTS} prompts a period: accuracy in the first copy and in the second; the induction
head and the previous-token head, chosen on half of the prompts, and on the others the induction head's score, the same
stripe on tokens that do not repeat, their difference with its 95 % interval, the score when the previous-token heads
below it write nothing (-: none can lie below), and the previous-token head's own score, beside uniform attention
(attention mass, 0 to 1).

| period | accuracy | heads | induction | control | difference | without previous | previous token | uniform |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(_period(period, told) for period, told in found["periods"].items())}

{PROMPTS} passages of what was held out, each twice in a row after BOS: the loss in nats per token on the first copy and
on the second, without their first tokens, and the difference with its 95 % interval; then what the second copy is
beside the same passage at the same place after another one, so that having more text before it is no gain.

| tokens | first copy | second copy | difference | after another | difference |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(_length(length, told) for length, told in found["passages"].items())}

It is there to be looked into, and good for nothing else: it knows nothing of the world, loses the thread within a
sentence, and has read old books alone. Since it was shown copies, its heads do not tell what plain text teaches.

`card.json` has the loss curve, the settings, the data's hash, the intervals, and every head's scores over training.
Licence: MIT, as the rest of Pellucid. The text is in the public domain in the US (Project Gutenberg, headers removed).
"""


def _period(period: int, told: Mapping[str, Figure]) -> str:
    shown = {name: "-" if figure.value is None else f"{figure.value:.3f}" for name, figure in told.items()}
    cells = [
        f"{shown['accuracy_first_half']} → {shown['accuracy_second_half']}",
        f"{told['induction_head'].label}, {told['previous_token_head'].label}",
        *(shown[name] for name in ("induction_head", "induction_head_control")),
        f"{shown[EXCESS]} {_interval(told[EXCESS])}",
        *(shown[name] for name in (CUT, "previous_token_head", "previous_token_head_control")),
    ]
    return f"| {period} | {' | '.join(cells)} |"


def _length(length: int, told: Mapping[str, Figure]) -> str:
    first, second, gain, other, over_other = (f"{figure.value:.3f}" for figure in told.values())
    gain, over_other = f"{gain} {_interval(told['gain'])}", f"{over_other} {_interval(told['over_other'])}"
    return f"| {length} | {first} | {second} | {gain} | {other} | {over_other} |"


def _interval(figure: Figure) -> str:
    return "" if figure.low is None else f"[{figure.low:.3f}, {figure.high:.3f}]"


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _plain(found: Mapping[int, Mapping[str, Figure]]) -> dict[int, dict[str, Any]]:
    return {number: {name: asdict(figure) for name, figure in told.items()} for number, told in found.items()}


if __name__ == "__main__":
    sys.exit(main())
