"""Steps of training beside a plain loop, and TransformerLens 2.18's `train` where PELLUCID_PEER is a Python with it.

All begin from the same weights, which must give the same loss; they take turns, and the best turn of each counts.
TransformerLens works in a process of its own, and reads rows of the same shape. Then: what the probes of a recipe cost.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench._program import Program
from bench._training_plain import PlainLoop, PlainModel, loss_of
from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.base.seeds import generator
from pellucid.train.loop import Training
from pellucid.train.optimiser import Optimiser
from pellucid.train.probes import SEED, probe
from pellucid.train.recipe import Recipe, read_recipe
from pellucid.train.run import FLUSH
from pellucid.train.schedule import Schedule
from pellucid.train.sequences import Sequences
from pellucid.train.stream import Drawn, Shuffled, Stream, next_tokens

SMALL = Config(
    n_layers=2, d_model=256, d_vocab=4096, n_ctx=256, attention=AttentionConfig(n_heads=4, d_head=64), mlp=None
)
AGREE = 1e-3
"""Nats by which the losses of the same weights may differ."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained, and for how long.

    Args:
        name: What is printed.
        config: The model.
        batch: Rows of a step.
        optimiser: What moves the weights.
        sequences: What the rows are, drawn on the way; None: random rows that lie ready.
        steps: Of a turn.
        turns: Of each contestant.
        floor: What our tokens per second must be, beside those of TransformerLens; None: nothing is asked.
    """

    name: str
    config: Config
    batch: int
    optimiser: Optimiser
    sequences: Sequences | None = None
    steps: int
    turns: int
    floor: float | None

    def rows(self) -> Tensor:
        """Random tokens, as many as a turn reads."""
        shape = self.steps * self.batch, self.config.n_ctx
        return torch.randint(self.config.d_vocab, shape, generator=generator(0))

    def stream(self) -> Stream:
        """What ours reads."""
        if self.sequences is not None:
            return Drawn(self.sequences, batch=self.batch, seed=0)
        return Shuffled(self.rows().numpy().astype("uint16"), batch=self.batch, seed=0)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What a plain loop reads: the same sequences, or rows as one would pick them by hand."""
        rows, draws = self.rows(), generator(0)
        while True:
            if self.sequences is not None:
                yield self.sequences.draw(self.batch, draws)[:2]
            else:
                tokens = rows[torch.randint(len(rows), (self.batch,), generator=draws)]
                yield next_tokens(tokens)[:2]


class Ours:
    """Pellucid's loop, which is asked for its losses as often as a run asks."""

    def __init__(self, case: Case) -> None:
        self.model = HookedTransformer(case.config, seed=0)
        schedule, steps = Schedule(shape="constant", warmup=0), 10**6
        self.training = Training(self.model, case.stream(), steps=steps, optimiser=case.optimiser, schedule=schedule)

    def run(self, steps: int) -> None:
        """Some steps."""
        for _ in range(steps):
            self.training.advance()
            if self.training.step % FLUSH == 0:
                self.training.told()


@contextmanager
def peer_of(case: Case) -> Iterator[Program | None]:
    """TransformerLens with the same weights; None without its Python."""
    python = os.environ.get("PELLUCID_PEER")
    if python is None:
        yield None
        return
    config, model = case.config, HookedTransformer(case.config, seed=0)
    shape = {name: getattr(config, name) for name in ("n_layers", "d_model", "n_ctx", "d_vocab")}
    heads = {name: getattr(config.attention, name) for name in ("n_heads", "d_head")}
    optimiser = {"lr": case.optimiser.lr, "weight_decay": case.optimiser.weight_decay, "optimizer_name": "AdamW"}
    asked = {
        "threads": torch.get_num_threads(),
        "model": shape | heads | {"attn_only": True, "normalization_type": "LN", "device": "cpu"},
        "training": optimiser | {"max_grad_norm": case.optimiser.clip, "batch_size": case.batch},
    }
    with tempfile.TemporaryDirectory() as folder:
        held = {name: x.detach().contiguous() for name, x in model.state_dict().items()}
        save_file(held | {"rows": case.rows()}, f"{folder}/weights.safetensors")
        Path(folder, "config.json").write_text(json.dumps(asked))
        peer = Program(python, "_training_peer.py", folder, TQDM_DISABLE="1")
        try:
            yield peer
        finally:
            peer.end()


def timed(run: Callable[[], object]) -> float:
    """How long it takes, in seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(case: Case) -> float:
    """Prints tokens per second of each, and the ratios; gives back our seconds a step."""
    ours, own = Ours(case), HookedTransformer(case.config, seed=0)
    plain = PlainModel(own)
    tokens, targets, _ = next_tokens(case.rows()[: case.batch])
    with torch.no_grad():
        losses = {"Pellucid": loss_of(own, tokens, targets).item(), "plain": loss_of(plain, tokens, targets).item()}
    loops = {"Training": ours.run}
    loops["plain loop, plain model"] = PlainLoop(plain, case.batches(), case.optimiser).run
    loops["plain loop, our model"] = PlainLoop(own, case.batches(), case.optimiser).run
    times: dict[str, list[float]] = {}
    with peer_of(case) as peer:
        if peer is not None:
            losses["TransformerLens"] = peer.answer()["loss"]
        if max(losses.values()) - min(losses.values()) > AGREE:
            raise SystemExit(f"all must begin with the same loss, got {losses}: they do not train one model")
        for run in loops.values():
            run(1)
        for _ in range(case.turns):
            for name, run in loops.items():
                times.setdefault(name, []).append(timed(lambda run=run: run(case.steps)))
            if peer is not None:
                times.setdefault("TransformerLens", []).append(peer.ask()["seconds"])
    weights = sum(p.numel() for p in plain.parameters())
    print(
        f"\n{case.name}: {case.config.n_layers} layers × {case.config.d_model}, vocabulary {case.config.d_vocab}, "
        f"{weights:,} weights; {case.batch} × {case.config.n_ctx} tokens a step; best of {case.turns} turns of "
        f"{case.steps} steps (median)"
    )
    _table(case, times)
    return min(times["Training"]) / case.steps


def _table(case: Case, times: dict[str, list[float]]) -> None:
    floors = {"plain loop, plain model": 0.97, "plain loop, our model": 0.97, "TransformerLens": case.floor}
    tokens = case.batch * case.config.n_ctx * case.steps
    for name, seconds in times.items():
        told = f"  {name:24}{tokens / min(seconds):9,.0f} tokens/s ({tokens / statistics.median(seconds):,.0f})"
        if name in floors:
            told += f"   ours / theirs {min(seconds) / min(times['Training']):.2f}"
            told += "" if floors[name] is None else f"   (at least {floors[name]})"
        print(told, flush=True)


def probes(recipe: Recipe, step: float, *, turns: int) -> None:
    """Prints the share of a recipe's time that its probes take; between them the model trains, as in a run."""
    ours = Ours(case_of(recipe))
    held_out = recipe.data.draw(recipe.probes.held_out, generator(recipe.seed + SEED))
    times = []
    for _ in range(turns):
        ours.run(FLUSH)
        times.append(timed(lambda: probe(ours.model, held_out, recipe.probes, seed=recipe.seed + SEED)))
    n, seconds = len(recipe.probes.of(recipe.steps)), min(times)
    share = n * seconds / (recipe.steps * step)
    print(f"\nprobes of the recipe: {1e3 * seconds:.1f} ms each, best of {turns}; {1e3 * times[0]:.0f} ms the first")
    print(
        f"  {n} probes of {1e3 * seconds:.1f} ms / {recipe.steps} steps of {1e3 * step:.1f} ms   "
        f"{100 * share:.1f} %   (below 5 %)"
    )


def case_of(recipe: Recipe) -> Case:
    """A recipe for random sequences and fresh weights."""
    return Case(
        name="toy-induction",
        config=recipe.model.config,
        batch=recipe.batch_size,
        optimiser=recipe.optimiser,
        sequences=recipe.data,
        steps=25,
        turns=10,
        floor=1.8,
    )


def main() -> None:
    """Prints the tables."""
    if "PELLUCID_PEER" not in os.environ:
        print("PELLUCID_PEER names no Python with transformer-lens 2.18: it is left out")
    print(f"float32, {torch.get_num_threads()} threads, torch {torch.__version__}; AdamW, gradients clipped at 1.0")
    small = {"batch": 16, "optimiser": Optimiser(weight_decay=0.01, decayed="everything")}
    measure(Case(name="attention only", config=SMALL, steps=4, turns=7, floor=1.3, **small))
    wide = SMALL.change(d_vocab=50257)
    measure(Case(name="a large vocabulary", config=wide, steps=1, turns=2, floor=None, **small))
    recipe = read_recipe("toy-induction")
    probes(recipe, measure(case_of(recipe)), turns=20)


if __name__ == "__main__":
    main()
