"""toy-induction, the bundled model: trained, put to the test, and only then written. `make models NAME=toy-induction`.

Two layers of attention alone learn to continue random tokens that repeat with a random period. It takes some two
minutes on one core, and the same weights come out of the same version of torch on the same kind of processor.
"""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

import torch

from pellucid import HookedTransformer
from pellucid.analysis.repeated import repeated_tokens
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.studies.induction import CUT, induction
from pellucid.studies.result import Figure, StudyResult
from pellucid.train import PeriodicSequences, read_recipe, train

NAME = "toy-induction"
TARGET = Path(__file__).resolve().parents[1] / "src" / "pellucid" / "bundled" / NAME
RECIPE = read_recipe(NAME)
DATA = RECIPE.data
assert isinstance(DATA, PeriodicSequences)
PERIODS = (10, 20, 31, 40, 50, 63)
TOLD = ("accuracy_second_half", "induction_head", "induction_head_control", CUT, "previous_token_head")
"""The figures that decide, at each period."""


def main() -> int:
    """Trains, tests and writes the model; 1 if it fails the test."""
    torch.set_num_threads(1)
    run = train(replace(RECIPE, probes=replace(RECIPE.probes, batch=0, held_out=0)), device="cpu", shown=True)
    model, losses = run.model, run.history.values.tolist()
    model.record = Record(model=NAME, seed=RECIPE.seed)
    found = {period: tested(model, period) for period in PERIODS}
    tests = {period: {name: result.figures[name] for name in TOLD} for period, result in found.items()}
    failed = [period for period, figures in tests.items() if not accepted(figures)]
    if failed:
        print(json.dumps({p: {n: asdict(f) for n, f in tests[p].items()} for p in failed}, indent=1), file=sys.stderr)
        print(f"{NAME} fails its test at periods {failed}, and is not written; see the figures above", file=sys.stderr)
        return 1
    with written_aside(TARGET) as aside:
        model.save_pretrained(aside, family="pellucid")
        (aside / "card.json").write_text(
            json.dumps(card(losses, tests, every_head(found[50])), indent=1) + "\n", encoding="utf-8"
        )
        (aside / "README.md").write_text(readme(losses, tests), encoding="utf-8")
    print(f"{NAME} passes its test and is written to {TARGET}", file=sys.stderr)
    return 0


def tested(model: HookedTransformer, period: int) -> StudyResult:
    """What the study finds at a period, on tokens that the training never drew."""
    return induction(model, repeated_tokens(model, seq_len=period, batch=64, seed=RECIPE.seed + 1))


def every_head(result: StudyResult) -> dict[str, dict[str, dict[str, float]]]:
    """Each head's scores and their controls."""
    names = {"score": "head_roles", "control": "head_roles_control"}
    means = {what: result.measurements[name].mean("prompt") for what, name in names.items()}
    heads: dict[str, dict[str, dict[str, float]]] = {}
    for what, mean in means.items():
        for row in mean.to_frame().itertuples():
            roles = heads.setdefault(f"{row.layer}.{row.head}", {})
            roles.setdefault(row.role, {})[what] = round(row.value, 4)
    return heads


def accepted(figures: dict[str, Figure]) -> bool:
    """Whether it has an induction head that matches content, and needs its previous-token head."""
    _, score, control, without, previous = (figures[name].value for name in TOLD)
    if score is None or control is None or without is None or previous is None:
        return False
    return score >= 0.8 and previous >= 0.8 and control <= 0.1 and without < 0.5 * score


def card(
    losses: list[float], tests: dict[int, dict[str, Figure]], heads: dict[str, dict[str, dict[str, float]]]
) -> dict[str, object]:
    """Everything that must be known to make it again, and what came out."""
    every = 10
    return {
        "name": NAME,
        "about": "random tokens which repeat",
        "made_by": "models/toy_induction.py",
        "recipe": RECIPE.to_dict(),
        "seed": RECIPE.seed,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "loss": {
            "unit": "nats",
            "mean_of_steps": every,
            "values": [round(fmean(losses[i : i + every]), 4) for i in range(0, len(losses), every)],
        },
        "figures_by_period": {p: {name: asdict(f) for name, f in figures.items()} for p, figures in tests.items()},
        "heads_at_period_50": heads,
    }


def readme(losses: list[float], tests: dict[int, dict[str, Figure]]) -> str:
    """The same for people."""
    rows = []
    for period, figures in tests.items():
        accuracy, *scores = (f"{figures[name].value:.3f}" for name in TOLD)
        heads = f"{figures['induction_head'].label}, {figures['previous_token_head'].label}"
        rows.append(f"| {period} | {accuracy} | {heads} | {' | '.join(scores)} |")
    uniform, reached = math.log(DATA.d_vocab), fmean(losses[-50:])
    periods = f"{DATA.shortest}–{DATA.longest}"
    return f"""# {NAME}

A transformer of two attention-only layers (d_model 64, 4 heads, 64 tokens with BOS 0, context 128) that continues
random tokens which repeat. It was trained by `models/toy_induction.py` after the recipe `toy-induction`, from seed
{RECIPE.seed}: {RECIPE.steps} steps of {RECIPE.batch_size} sequences, period uniform in {periods}, loss only after the
first period, to {reached:.4f} nats (uniform {uniform:.2f}). In the first period, which no loss
counted, its predictions mean nothing.

What `pellucid study induction` says at several periods: accuracy in the second half; the induction head and the
previous-token head, chosen on 32 prompts, and on 32 others the induction head's score, the same stripe on unrepeated
tokens, its score when the previous-token head writes nothing, and that head's own score (attention mass, 0 to 1).

| period | accuracy | heads | induction | control | without previous | previous token |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

`card.json` has the loss curve, the settings, the intervals, and every head's scores.
Licence: MIT, as the rest of Pellucid.
"""


if __name__ == "__main__":
    sys.exit(main())
