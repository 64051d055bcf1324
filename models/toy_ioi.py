"""toy-ioi, the bundled model that names the indirect object: trained, put to the test, and written with its figures.

Three layers with MLPs read sentences of some 190 words. `make models NAME=toy-ioi` takes some twenty minutes on one
core. It is tested on what no training sentence had: pairs of names, names, templates; see `pellucid.train.sentences`.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import torch

from pellucid import HookedTransformer
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.tasks.ioi import FRAMES, IOI
from pellucid.train import read_recipe, train
from pellucid.train.sentences import NEW_FRAMES, NEW_NAMES, kept_out, sentence_vocabulary

NAME = "toy-ioi"
TARGET = Path(__file__).resolve().parents[1] / "src" / "pellucid" / "bundled" / NAME
RECIPE = read_recipe(NAME)
ENOUGH = 0.98
"""The accuracy that is wanted on each kind of prompts."""
KNOWN = tuple(frame for frame in FRAMES if frame not in NEW_FRAMES)
PROMPTS = 20_000
"""Of which those of the wanted names are taken."""


def familiar(a: str, b: str) -> bool:
    """Both names stand together in sentences that were trained on."""
    return not kept_out(a, b)


KINDS: dict[str, tuple[tuple, Callable[[str, str], bool]]] = {
    "familiar": (KNOWN, familiar),
    "new pairs of names": (KNOWN, lambda a, b: kept_out(a, b) and not {a, b} & set(NEW_NAMES)),
    "new names": (KNOWN, lambda a, b: {a, b} <= set(NEW_NAMES)),
    "new templates": (NEW_FRAMES, familiar),
}
"""What the prompts of each kind have: templates, and names."""


def main() -> int:
    """Trains, tests and writes the model; 1 if it does not do the task at all."""
    torch.set_num_threads(1)
    run = train(RECIPE, device="cpu", shown=True)
    model, losses = run.model, run.history.values.tolist()
    model.record = Record(model=NAME, seed=RECIPE.seed)
    found = {kind: accuracy(model, *asked) for kind, asked in KINDS.items()}
    print(json.dumps(found, indent=1), file=sys.stderr)
    if min(found["familiar"].values()) < ENOUGH:
        print(f"{NAME} does not do the task, and is not written; see the figures above", file=sys.stderr)
        return 1
    with written_aside(TARGET) as aside:
        model.save_pretrained(aside, family="pellucid")
        (aside / "card.json").write_text(json.dumps(card(losses, found), indent=1) + "\n", encoding="utf-8")
        (aside / "README.md").write_text(readme(losses, found), encoding="utf-8")
    print(f"{NAME} is written to {TARGET}", file=sys.stderr)
    return 0


@torch.no_grad()
def accuracy(model: HookedTransformer, frames: tuple, wanted: Callable[[str, str], bool]) -> dict[str, float]:
    """The share of prompts whose most probable next token is the right name, by group and template; prompts counted."""
    pairs = IOI(frames=frames).pairs(model.tokenizer, n=PROMPTS, seed=RECIPE.seed + 1)
    assert pairs.answer is not None and pairs.wrong is not None and pairs.frame is not None and pairs.group is not None
    strings = model.to_str_tokens(torch.arange(model.config.d_vocab)[None], prepend_bos=False)
    two = zip(pairs.answer[:, 0].tolist(), pairs.wrong[:, 0].tolist(), strict=True)
    pairs = pairs[[at for at, (a, b) in enumerate(two) if wanted(strings[a], strings[b])][:4000]]
    ends = pairs.positions["end"][:, None]
    right = []
    for rows in torch.arange(len(pairs)).split(512):
        logits = model.run(pairs.clean[rows], logits_at=ends[rows], padding_side="right").logits[:, 0]
        right += (logits.argmax(1) == pairs.answer[rows, 0]).tolist()
    by: dict[str, list[float]] = {}
    for hit, group, frame in zip(right, pairs.group, pairs.frame, strict=True):
        by.setdefault(group, []).append(float(hit))
        if len(frames) == len(NEW_FRAMES):
            by.setdefault(frame, []).append(float(hit))
    return {name: round(fmean(hits), 4) for name, hits in sorted(by.items())}


def card(losses: list[float], found: dict[str, dict[str, float]]) -> dict[str, object]:
    """Everything that must be known to make it again, and what came out."""
    every = 50
    return {
        "name": NAME,
        "about": "which of two names was not repeated",
        "made_by": "models/toy_ioi.py",
        "recipe": RECIPE.to_dict(),
        "seed": RECIPE.seed,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "loss": {
            "unit": "nats",
            "mean_of_steps": every,
            "values": [round(fmean(losses[i : i + every]), 4) for i in range(0, len(losses), every)],
        },
        "accuracy": found,
    }


def readme(losses: list[float], found: dict[str, dict[str, float]]) -> str:
    """The same for people."""
    rows = [f"| {kind} | {by['ABBA']:.3f} | {by['BABA']:.3f} |" for kind, by in found.items()]
    templates = ", ".join(f"{v:.3f}" for name, v in found["new templates"].items() if name.startswith("frame"))
    short = [kind for kind, by in found.items() if min(by["ABBA"], by["BABA"]) < ENOUGH]
    told = f"Below {ENOUGH}: {', '.join(short)}." if short else f"All are {ENOUGH} or more."
    return f"""# {NAME}

A transformer of three layers (d_model 128, 4 heads, MLPs of 512, learned positions, context 64;
{len(sentence_vocabulary()) - 1} words and marks, BOS 0) that reads simple sentences, and tells
which of two names was not repeated, the indirect object:
"When Mary and John went to the store, John gave a drink to" → "Mary". It was trained by `models/toy_ioi.py` after the
recipe `toy-ioi`, from seed {RECIPE.seed}: {RECIPE.steps} steps of {RECIPE.batch_size} rows of 64 words, each of several
sentences, loss on every word, to {fmean(losses[-50:]):.3f} nats.

Accuracy: the right name is the most probable next word, of all words, where the sentence stands right behind BOS.

| prompts | ABBA | BABA |
| --- | --- | --- |
{chr(10).join(rows)}

*New names* stand in other sentences alone, among them such as say of two people that one saw or looked for the
other; *new pairs* of names never stand together in a sentence of this kind; *new templates* of the task `ioi` are
followed by no training sentence (each of the five: {templates}). {told}

`card.json` has the loss curve and the settings. `pellucid study ioi --model {NAME}` looks for the
circuit, which need not be that of GPT-2 small.
Licence: MIT, as the rest of Pellucid.
"""


if __name__ == "__main__":
    sys.exit(main())
