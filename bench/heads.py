"""Three roles of all heads at GPT-2-small size, beside TransformerLens 2.18's three `detect_head` roles.

`make bench NAME=heads`. One sequence of 101 tokens: BOS, 50 random ones, the same 50 again. Both sides read the same
random weights, and take turns on the same machine; the best round of each counts. Ours is told twice: the scores alone,
which is what `detect_head` gives, and with the control that it does not give, on as many unrepeated tokens. Scores must
agree, or the bench fails: `detect_head` divides by the whole pattern, so ours are scaled to that; and it counts BOS as
a previous token, so p = 1 is put to our cells. That our scores are faster by less than is told is said, not failed.

`PELLUCID_PEER` names a Python that has transformer-lens 2.18; without it only our seconds are told.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench._program import Program
from bench._turns import GPT2_SMALL
from pellucid import HookedTransformer
from pellucid.analysis.attention import Cells, masses
from pellucid.analysis.heads import DUPLICATE, INDUCTION, PREVIOUS, cells_of
from pellucid.analysis.repeated import RepeatedTokens
from pellucid.analysis.zoo_attention import attention_roles
from pellucid.text.vocabulary import integer_vocabulary

S, BOS, ROUNDS, LEAST = 50, 50256, 3 if "quick" in sys.argv else 8, 8
AGREE = 1e-5
"""How far scores may lie apart: attention in float32."""
ROLES = {"previous_token": PREVIOUS, "duplicate_token": DUPLICATE, "induction": INDUCTION}


def repeated() -> RepeatedTokens:
    """BOS, 50 different tokens, and the same again."""
    drawn = torch.randperm(GPT2_SMALL.d_vocab - 1, generator=torch.Generator().manual_seed(0))[:S]
    return RepeatedTokens(torch.cat([torch.tensor([BOS]), drawn, drawn])[None], S, bos=True)


def peer_of(model: HookedTransformer, folder: str) -> Program | None:
    """TransformerLens with the same weights."""
    python = os.environ.get("PELLUCID_PEER")
    if not python:
        print("PELLUCID_PEER names no Python with transformer-lens 2.18: nothing is compared with it")
        return None
    weights = {name: x.detach().contiguous() for name, x in model.state_dict().items()}
    weights |= {"unembed.W_U": model.W_U.detach().contiguous(), "unembed.b_U": model.b_U.detach()}
    save_file(weights, f"{folder}/weights.safetensors")
    shape = {name: getattr(model.cfg, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp")}
    shape |= {"n_ctx": model.cfg.n_ctx, "d_vocab": model.cfg.d_vocab, "act_fn": "gelu_new", "device": "cpu"}
    Path(folder, "config.json").write_text(json.dumps(shape | {"normalization_type": "LN"}))
    return Program(python, "_heads_peer.py", folder)


def largest_gap(model: HookedTransformer, tokens: RepeatedTokens, theirs: dict[str, list[list[float]]]) -> float:
    """How far the scores of any head lie apart, as `detect_head` has them."""
    found = []
    for name, role in ROLES.items():
        cell = cells_of(role, tokens, bos=True)
        if role == PREVIOUS:
            queries = torch.cat([torch.tensor([1]), cell.queries])
            cell = Cells(queries, queries - 1)
        ours = masses(model, tokens.tokens, [cell])[0, 0] * len(cell.queries) / tokens.tokens.shape[1]
        found.append((ours - torch.tensor(theirs[name])).abs().max())
    return float(torch.stack(found).max())


def timed(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    """Prints the figures."""
    vocabulary = integer_vocabulary(GPT2_SMALL.d_vocab, bos=BOS)
    model, tokens = HookedTransformer(GPT2_SMALL, vocabulary, seed=0, device="cpu"), repeated()
    roles = list(ROLES.values())
    cells = [cells_of(role, tokens, bos=True) for role in roles]
    ways = {
        "scores": lambda: masses(model, tokens.tokens, cells),
        "scores and controls": lambda: attention_roles(model, tokens, roles),
    }
    with tempfile.TemporaryDirectory() as folder:
        peer = peer_of(model, folder)
        asked = tokens.tokens[0].tolist()
        answers = [peer.ask(tokens=asked)] if peer else []  # the first round of each warms up
        ours: dict[str, list[float]] = {name: [] for name in ways}
        for run in ways.values():
            run()
        for _ in range(ROUNDS):
            for name, run in ways.items():
                ours[name].append(timed(run))
            if peer:
                answers.append(peer.ask(tokens=asked))
        if peer:
            peer.end()
    print(f"three roles of {12 * 12} heads on {tokens.tokens.shape[1]} tokens, {torch.get_num_threads()} threads:")
    if not answers:
        print("  " + ", ".join(f"{name} {min(seconds):.3f} s" for name, seconds in ours.items()))
        return
    theirs, gap = min(answer["seconds"] for answer in answers[1:]), largest_gap(model, tokens, answers[0]["scores"])
    print(f"  TransformerLens {theirs:.3f} s; largest difference of scores {gap:.1e}")
    for name, seconds in ours.items():
        least = f" (at least {LEAST})" if name == "scores" else ", which it has not"
        print(f"  {name}: {min(seconds):.3f} s, {theirs / min(seconds):.1f} × faster{least}")
    if not gap <= AGREE:
        raise SystemExit(f"both must give the same scores, got some {gap:.1e} apart, and {AGREE:g} is allowed")


if __name__ == "__main__":
    main()
