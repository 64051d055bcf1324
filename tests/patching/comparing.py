"""A sweep beside the literal loop: prompts that differ a little, metrics written out, and the comparison."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from pellucid import HookedTransformer, Measurement, Noise, Site, patching
from pellucid.patching import LogitDiff, Pairs
from tests.models import D_VOCAB, model_of
from tests.reference import sweep as loop

WITHIN = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Of the metric's scale."""


@dataclass(frozen=True)
class Prompts:
    """Pairs of prompts as plain lists of token ids."""

    clean: list[list[int]]
    corrupted: list[list[int]]
    answer: list[list[int]]
    wrong: list[list[int]]
    positions: dict[str, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def pairs(self) -> Pairs:
        return patching.pairs(
            self.clean, self.corrupted, answer=self.answer, wrong=self.wrong, positions=self.positions or None
        )

    def named(self, i: int) -> dict[str, int]:
        """The positions of one prompt, "end" included."""
        return {name: places[i] for name, places in self.positions.items()} | {"end": len(self.clean[i]) - 1}

    def alone(self, i: int) -> "Prompts":
        """One of them by itself."""
        parts = {name: getattr(self, name)[i : i + 1] for name in ("clean", "corrupted", "answer", "wrong")}
        return Prompts(**parts, positions={name: places[i : i + 1] for name, places in self.positions.items()})


def prompts_of(
    lengths: Sequence[int] = (6, 6), *, same: int | Sequence[int] = 2, answers: int = 1, seed: int = 0
) -> Prompts:
    """Random prompts whose runs part at position `same`; "first" is that position, "early" one between it and the end.

    Behind `same`, the positions differ or not as it happens. Each has up to so many right and wrong answers.
    """
    draw = random.Random(seed)
    clean, corrupted, answer, wrong, first, early = [], [], [], [], [], []
    for i, length in enumerate(lengths):
        begin = min(same if isinstance(same, int) else same[i], length)
        ids = [draw.randrange(D_VOCAB) for _ in range(length)]
        others = [token if p < begin else draw.choice([token, draw.randrange(D_VOCAB)]) for p, token in enumerate(ids)]
        if begin < length:
            others[begin] = (ids[begin] + 1) % D_VOCAB
        told = draw.sample(range(D_VOCAB), 2 * answers)
        right = draw.randint(1, answers)
        clean.append(ids)
        corrupted.append(others)
        answer.append(told[:right])
        wrong.append(told[answers : answers + draw.randint(1, answers)])
        first.append(min(begin, length - 1))
        early.append(draw.randint(first[-1], length - 1))
    return Prompts(clean, corrupted, answer, wrong, {"first": first, "early": early})


def measure_of(metric, prompts: Prompts, i: int, reference: Tensor) -> loop.Measure:
    """A metric of one prompt, written out; `reference` is the clean run's logits ``[1 pos d_vocab]``."""
    right, wrong, clean = prompts.answer[i], prompts.wrong[i], prompts.clean[i]

    def log_probs(logits):
        return logits - logits.exp().sum().log()

    of_row: Mapping[str, Callable[[Tensor, int], Tensor | float]] = {
        "LogitDiff": lambda x, p: x[right].mean() - x[wrong].mean(),
        "Logit": lambda x, p: x[right].mean(),
        "LogProb": lambda x, p: log_probs(x)[right].mean(),
        "Rank": lambda x, p: float((x > x[right].max()).sum()),
        "Accuracy": lambda x, p: float(int(x.argmax()) in right),
        "KL": lambda x, p: (log_probs(reference[0, p]).exp() * (log_probs(reference[0, p]) - log_probs(x))).sum(),
        "Loss": lambda x, p: -log_probs(x)[clean[p + 1]],
    }
    kind = type(metric).__name__
    names = (metric.at,) if isinstance(metric.at, str) else metric.at
    rows = [prompts.named(i)[name] for name in names] or list(range(len(clean) - 1))
    return lambda logits: sum(float(of_row[kind](logits[0, p], p)) for p in rows) / len(rows)


@dataclass(frozen=True)
class Asked:
    """What is asked of a sweep, or of an ablation where `give` tells what takes a part's place."""

    site: str | tuple[str, ...]
    over: str | tuple[str, ...]
    metric: object = field(default_factory=LogitDiff)
    direction: str = "denoise"
    freeze: tuple[str, ...] = ()
    corrupt: Noise | None = None
    by: object = None
    give: Callable[[HookedTransformer, int], loop.Give] | None = None
    """Of the model and the prompt's number."""

    @property
    def sites(self) -> tuple[str, ...]:
        return (self.site,) if isinstance(self.site, str) else self.site

    @property
    def axes(self) -> tuple[str, ...]:
        return (self.over,) if isinstance(self.over, str) else self.over

    def found(self, model: HookedTransformer, prompts: Prompts, **more) -> Measurement:
        asked = {"site": self.site, "over": self.over, "metric": self.metric, "freeze": self.freeze}
        if self.by is not None:
            return patching.ablate(model, prompts.pairs, by=self.by, **asked, progress=False, **more)
        asked |= {"direction": self.direction, "corrupt": self.corrupt}
        return patching.sweep(model, prompts.pairs, **asked, progress=False, **more)

    def cells(self, model: HookedTransformer, prompts: Prompts, i: int) -> dict[tuple, loop.Cell]:
        return loop.cells(model, self.sites, self.axes, len(prompts.clean[i]), prompts.named(i))

    def runs(self, prompts: Prompts, i: int) -> tuple[tuple[Tensor, loop.Hooks], tuple[Tensor, loop.Hooks]]:
        """Tokens and hooks of a prompt's clean and of its corrupted run."""
        clean, corrupted = (torch.tensor([side[i]]) for side in (prompts.clean, prompts.corrupted))
        if self.corrupt is None:
            return (clean, []), (corrupted, [])
        return (clean, []), (clean, [noise_of(self.corrupt, prompts, i)])

    def expected(self, model: HookedTransformer, prompts: Prompts, i: int, limit: int) -> tuple[dict, dict]:
        """What the loop gives for one prompt: the two runs that are not patched, and cells by their labels."""
        clean, corrupted = self.runs(prompts, i)
        with torch.no_grad():
            measure = measure_of(self.metric, prompts, i, model.run_with_hooks(clean[0], fwd_hooks=clean[1]))
        cells = self.cells(model, prompts, i)
        base, other = (corrupted, clean) if self.direction == "denoise" and self.by is None else (clean, corrupted)
        give = loop.donor(model, other[0], cells, other[1]) if self.give is None else self.give(model, i)
        both = {
            "clean": loop.measured(model, clean[0], measure, clean[1]),
            "corrupted": loop.measured(model, corrupted[0], measure, corrupted[1]),
        }
        how = {"hooks": base[1], "freeze": self.freeze, "limit": limit, "seed": i}
        return both, loop.sweep(model, base[0], cells, give, measure, **how)


def noise_of(corrupt: Noise, prompts: Prompts, i: int) -> tuple[str, Callable]:
    """The hook that corrupts a prompt's embedding: noise for all of it, of which some positions get theirs."""
    name = f"hook_{corrupt.site.name}"
    pos = corrupt.site.pos if not isinstance(corrupt.site.pos, str) else prompts.named(i)[corrupt.site.pos]
    noise = Noise(Site(name), std=corrupt.std, seed=corrupt.seed + i)

    def corrupted(x, hook):
        return torch.where(loop.chosen(name, x, {"pos": pos}), noise.apply(x), x)

    return name, corrupted


def assert_equals_the_loop(
    model: HookedTransformer, prompts: Prompts, asked: Asked, *, limit: int = 200, **more
) -> Measurement:
    """Runs a sweep and the loop, and gives what the sweep found; `limit` cells of each prompt are compared."""
    found = asked.found(model, prompts, **more)
    assert found.dims == ("prompt", *asked.axes)
    data, within = found.dataset, WITHIN[model.dtype]
    labels = [data[axis].values.tolist() for axis in asked.axes]
    for i in range(len(prompts)):
        both, cells = asked.expected(model, prompts, i, limit)
        scale = max(1.0, *(abs(value) for value in [*both.values(), *cells.values()]))
        for name in both if asked.by is None else ["clean"]:
            assert abs(float(data[name][i]) - both[name]) <= within * scale, f"{name} of prompt {i}"
        assert set(product(*labels)) == set(asked.cells(model, prompts, i)) != set()
        for where, value in cells.items():
            index = tuple(there.index(label) for there, label in zip(labels, where, strict=True))
            got = float(found.values[(i, *index)])
            told = f"{asked.site} over {dict(zip(asked.axes, where, strict=True))} of prompt {i}: {got} for {value}"
            assert abs(got - value) <= within * scale, told
    return found


def double(kind="gpt2", **more) -> HookedTransformer:
    return model_of(kind, dtype=torch.float64, **more)
