"""Language models small enough to read whole: which setting was to blame, and what do few layers learn?

In: texts; the models are trained here. Out: figures over runs, each with its interval over seeds. Runs are compared in
bits per byte of held-out text, which does not depend on the tokenizer.

Source: the study "attention-only" of the systematic analysis of transformer circuits, which trained such models for 36
GPU-hours and could not say why they learned nothing; Elhage et al. 2021 for what they should learn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.base.record import Record
from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.hooked_transformer import HookedTransformer
from pellucid.measurement import Measurement
from pellucid.studies import over_runs
from pellucid.studies.attention_only_arms import (
    BUNDLED,
    LAYERS,
    MADE,
    REFERENCE,
    SETTINGS,
    TAKEN,
    Sizes,
    costs,
    path,
    source_grid,
)
from pellucid.studies.attention_only_runs import CURVES, mapped, read_words, run
from pellucid.studies.result import Figure, Findings, StudyResult
from pellucid.text.corpus import Corpus

Runs = Mapping[str, Sequence[Mapping[str, Tensor]]]
"""What each run of each arm said."""

BITS, MASS = "bits per byte", "attention mass"
NEEDED = 2.5e9
"""Tokens after which induction heads form in the models of Olsson et al. 2022, "In-context Learning and Induction
Heads": the beginning of the phase change, 2.5 to 5 billion."""
TEXT = (
    "Bromley found the old lamp. Neither Bromley nor Teverin could see the river from there. "
    '"Keep the lamp in mind," said Teverin to Bromley.'
)
"""What attention is shown on, where no text is named."""


def attention_only(
    data: Mapping[str, str] | None = None,
    *,
    text: str = TEXT,
    beside: Sequence[str] = (BUNDLED,),
    quick: bool = False,
    full: bool = False,
    executor: Executor | None = None,
    journal: Journal | None = None,
    advance: Callable[[int], object] | None = None,
) -> StudyResult:
    """Runs the study.

    Args:
        data: Texts by name, each a source that `pellucid.text.corpus.Corpus` takes; None: one that is made here. On the
            first all arms are trained, on the others the numbers of layers.
        text: What attention is shown on.
        beside: Models whose first two layers are shown on it too.
        quick: Fewer and shorter runs, for a first look.
        full: Longer runs, and the source's whole grid, for machines with GPUs.
        executor: What runs the trainings; None: this process, one after the other. `Processes()` takes all cores.
        journal: Where finished runs are kept, so that an interrupted study goes on.
        advance: Is told 1 whenever a run has ended, by executors that tell it.

    Returns:
        Figures ``bits_per_byte_… icl_score_… perplexity_…`` of ``0_layers 1_layers 2_layers 2_layers_mlp``, with the
        text's name behind for every text but the first; ``cost_of_SETTING icl_cost_of_SETTING``,
        ``bits_per_byte_source``, ``counted_bigrams bigram_…``, ``skip_trigram_…``, ``induction_… previous_token_…``,
        ``tokens_seen share_of_tokens_needed``, ``attention_to_first_…``; Measurements over the runs.

    Raises:
        ArgumentError: Both `quick` and `full`, or a name of a text that is none.
        CheckpointError: A text or a model that cannot be read.
    """
    sizes = _sizes(quick, full)
    texts = dict(data or {"made": MADE})
    shown = [(name, HookedTransformer.from_pretrained(name)) for name in beside]
    jobs = jobs_of(texts, sizes, text)
    found = over_runs.carried_out(run, jobs, executor, journal, advance)
    runs: dict[str, dict[str, list[Mapping[str, Tensor]]]] = {name: {} for name in texts}
    for job, tensors in found:
        runs[job["data"]].setdefault(job["arm"], []).append(tensors)
    first = next(iter(texts))
    settings = {"quick": quick, "full": full, "steps": sizes.steps, "data": texts, "text": text}
    settings["runs"] = {name: {arm: len(them) for arm, them in ours.items()} for name, ours in runs.items()}
    settings["recipe"] = sizes.recipe(REFERENCE, 0, texts[first]).to_dict()
    record = Record(task="attention-only", seed=0, device="cpu", dtype="float32", settings=settings)
    result = Findings()
    for name, ours in runs.items():
        result.add(layers(ours, record, "" if name == first else f"_{name}"))
    for part in (blame, read_off, heads, tokens_seen, taken, attention):
        result.add(part(runs[first], record))
    if full:
        result.add(whole_grid(runs[first], record))
    for name, model in shown:
        result.measurements |= _maps(mapped(model, text, layers=2), name, record)
    return StudyResult(
        study="attention-only",
        model=f"{len(found)} models trained here",
        record=record,
        figures=result.figures,
        measurements=result.measurements,
    )


def _sizes(quick: bool, full: bool) -> Sizes:
    if quick and full:
        raise ArgumentError("one of quick and full must be chosen, got both")
    return Sizes(quick=quick, full=full)


def jobs_of(texts: Mapping[str, str], sizes: Sizes, text: str) -> list[dict[str, Any]]:
    """All runs, as JSON values.

    Raises:
        ArgumentError: A text's name is no word.
        CheckpointError: A text cannot be read.
    """
    jobs = []
    for place, (name, source) in enumerate(texts.items()):
        next(iter(Corpus(source=source)))  # what cannot be read is said before anything is trained
        if not name.isidentifier():
            raise ArgumentError(f"a text must have a name of letters and digits, got {name!r}; give NAME=SOURCE")
        same = {"data": name, "source": source, "text": text}
        for seed in range(max(sizes.seeds(arm) for arm in sizes.arms)):
            for arm in sizes.arms if not place else LAYERS:
                if seed < sizes.seeds(arm):
                    jobs.append({"arm": arm.name, "seed": seed, **same, "quick": sizes.quick, "full": sizes.full})
    return jobs


def layers(runs: Runs, record: Record, suffix: str) -> Findings:
    """What more layers bring."""
    result = Findings()
    for arm in LAYERS:
        ours, name = runs[arm.name], f"{arm.name}{suffix}"
        perplexity = np.exp(_numbers(ours, "loss"))
        result.figures |= {
            f"bits_per_byte_{name}": over_runs.mean(_numbers(ours, "bits_per_byte"), BITS),
            f"icl_score_{name}": over_runs.mean(_numbers(ours, "in_context_score"), "nats"),
            f"perplexity_{name}": over_runs.mean(perplexity, "tokens", bounds=(1, np.inf)),
        }
        for curve in CURVES:
            values = torch.stack([one[f"curve.{curve}"] for one in ours])
            unit = BITS if curve == "bits_per_byte" else "nats"
            result.measurements[f"{curve}_{name}"] = Measurement(
                values,
                ("run", "step"),
                unit=unit,
                record=record,
                name=f"{curve.replace('_', ' ')}, {arm.words}",
                coords={"step": ours[0]["steps"].tolist()},
            )
        result.measurements[f"training_loss_{name}"] = Measurement(
            torch.stack([one["losses"] for one in ours]),
            ("run", "step"),
            unit="nats",
            record=record,
            name=f"training loss, {arm.words}",
        )
    return result


def blame(runs: Runs, record: Record) -> Findings:
    """What each of the source's settings costs, and the way from them to the reference."""
    result = Findings()
    ours = runs[REFERENCE.name]
    for name, setting in SETTINGS.items():
        theirs = runs.get(f"cost_{name}")
        words = setting.told
        for figure, number in (("cost_of", "bits_per_byte"), ("icl_cost_of", "in_context_bits_per_byte")):
            if theirs is None:
                one = Figure(unit=BITS, label=words, reason="not asked by a quick look")
            else:
                one = over_runs.difference(_numbers(theirs, number), _numbers(ours, number), BITS, label=words)
            result.figures[f"{figure}_{name}"] = one
    way = [arm for arm in path() if arm.name in runs]
    sources = _numbers(runs[way[0].name], "bits_per_byte") if way else []
    result.figures["bits_per_byte_source"] = over_runs.mean(sources, BITS, reason="not asked by a quick look")
    if way:
        steps = [*way, REFERENCE]
        for name, number in (("path", "bits_per_byte"), ("path_icl", "in_context_bits_per_byte")):
            n = len(runs[way[0].name])
            values = torch.tensor([_numbers(runs[arm.name], number)[:n] for arm in steps]).T
            labels = ["the source's setting", *(f"+ {setting.words}" for setting in SETTINGS.values())]
            result.measurements[name] = Measurement(
                values,
                ("run", "group"),
                unit=BITS,
                record=record,
                name=number.replace("_", " "),
                coords={"group": labels},
            )
    asked = [arm for arm in [REFERENCE, *costs(False)] if arm.name in runs]
    n = min(len(runs[arm.name]) for arm in asked)
    result.measurements["costs"] = Measurement(
        torch.tensor([_numbers(runs[arm.name], "bits_per_byte")[:n] for arm in asked]).T,
        ("run", "group"),
        unit=BITS,
        record=record,
        name="bits per byte",
        coords={"group": [arm.name.removeprefix("cost_") for arm in asked]},
    )
    return result


def read_off(runs: Runs, record: Record) -> Findings:
    """No layer beside counted bigrams, and the skip-trigrams of one layer beside their counts."""
    result = Findings()
    bigrams = torch.stack([one["bigrams"] for one in runs["0_layers"]]).numpy()
    per_nat = np.array(_numbers(runs["0_layers"], "bits_per_byte")) / np.array(_numbers(runs["0_layers"], "loss"))
    result.figures |= {
        "bits_per_byte_counted_bigrams": over_runs.mean(bigrams[:1, 0] * per_nat[:1], BITS),
        "bigram_divergence": over_runs.mean(bigrams[:, 1], "nats"),
        "bigram_agreement": over_runs.mean(bigrams[:, 2], "fraction", bounds=(0, 1)),
    }
    ours = runs["1_layers"]
    lifts, others = ([_above_one(one[name]) for one in ours] for name in ("lifts", "control"))
    result.figures |= {
        "skip_trigram_share": over_runs.mean(lifts, "fraction", bounds=(0, 1)),
        "skip_trigram_control": over_runs.mean(others, "fraction", bounds=(0, 1)),
        "skip_trigram_excess": over_runs.difference(lifts, others, "fraction"),
        "skip_trigram_lift": over_runs.mean([one["lifts"].nanmedian().item() for one in ours], "fraction"),
    }
    one = ours[0]
    names = read_words(one["words"])
    s, d, o = names[::3], names[1::3], names[2::3]
    labels = [f"{a} …{b} →{c}" for a, b, c in zip(s, d, o, strict=True)]
    triples = {"lift": one["lifts"], "control": one["control"], "head": one["triples"][:, 0]}
    counts = dict(zip(("n", "k", "n_without", "k_without"), one["counts"].T, strict=True))
    result.measurements["skip_trigrams"] = Measurement(
        triples.pop("lift"),
        ("component",),
        unit="fraction",
        record=record,
        name="how many times likelier",
        coords={"component": [f"{i}: {label}" for i, label in enumerate(labels)]},
        variables={name: ("component", x.double()) for name, x in {**triples, **counts}.items() if name != "head"}
        | {"of_head": ("component", triples["head"].double())},
    )
    return result


def heads(runs: Runs, record: Record) -> Findings:
    """Whether there are induction heads, and heads that rest at the first token."""
    result = Findings()
    for arm in LAYERS[1:]:
        for role in ("induction", "previous_token"):
            result.figures[f"{role}_{arm.name}"] = over_runs.mean(_numbers(runs[arm.name], role), MASS)
        most = [float(one["first"].max()) for one in runs[arm.name]]
        result.figures[f"attention_to_first_{arm.name}"] = over_runs.mean(most, MASS)
    without = [float(one["first"].max()) for one in runs.get("cost_bos", ())]
    result.figures["attention_to_first_without_bos"] = over_runs.mean(without, MASS, reason="not asked by a quick look")
    return result


def tokens_seen(runs: Runs, record: Record) -> Findings:
    """How far the tokens that were seen are from what induction heads are known to need."""
    seen = _numbers(runs[REFERENCE.name], "tokens")[0]
    return Findings(
        figures={
            "tokens_seen": Figure(unit="tokens", value=seen, reason="the same in every run", label="of each run"),
            "share_of_tokens_needed": Figure(
                unit="fraction",
                value=seen / NEEDED,
                reason="the same in every run",
                label="of 2.5 billion, where the models of Olsson et al. 2022 begin to have them",
            ),
        }
    )


def taken(runs: Runs, record: Record) -> Findings:
    """What embeddings or a layer of a trained model bring."""
    result = Findings()
    for arm in TAKEN:
        ours = _numbers(runs.get(arm.name, ()), "bits_per_byte")
        result.figures[f"bits_per_byte_{arm.name}"] = over_runs.mean(
            ours, BITS, label=arm.words, reason="not asked by a quick look"
        )
    return result


def attention(runs: Runs, record: Record) -> Findings:
    """What the heads of the first runs do on the text."""
    result = Findings()
    for arm in ("1_layers", "2_layers", "cost_bos"):
        if arm in runs and "map.patterns" in runs[arm][0]:
            result.measurements |= _maps(runs[arm][0], arm, record)
    return result


def whole_grid(runs: Runs, record: Record) -> Findings:
    """The source's whole grid, a number for each combination."""
    arms = [arm for arm in source_grid() if arm.name in runs]
    values = torch.tensor([_numbers(runs[arm.name], "bits_per_byte")[0] for arm in arms])
    labels = [arm.words for arm in arms]
    grid = Measurement(values, ("group",), unit=BITS, record=record, name="the source's grid", coords={"group": labels})
    return Findings(measurements={"source_grid": grid})


def _maps(found: Mapping[str, Tensor], name: str, record: Record) -> dict[str, Measurement]:
    """Attention on the text, and the tokens that heads write for."""
    tokens, written = read_words(found["map.tokens"]), read_words(found["map.words"])
    shape = found["map.raised"].shape
    told = np.array(written, dtype=object).reshape(shape)
    top = np.array([" ".join(map(repr, row)) for row in told.reshape(-1, shape[-1])], dtype=object).reshape(shape[:-1])
    return {
        f"attention_{name}": Measurement(
            found["map.patterns"],
            ("layer", "head", "q_pos", "k_pos"),
            unit=MASS,
            record=record,
            name=f"attention, {name}",
            coords={"token": ("k_pos", tokens)},
        ),
        f"written_{name}": Measurement(
            found["map.raised"][..., 0],
            ("layer", "head", "pos"),
            unit="logits",
            record=record,
            name=f"the logit that a head raises most, {name}",
            coords={"token": ("pos", tokens), "written": (("layer", "head", "pos"), top.tolist())},
        ),
    }


def _numbers(runs: Sequence[Mapping[str, Tensor]], name: str) -> list[float]:
    return [float(one[name]) if name in one else float("nan") for one in runs]


def _above_one(lifts: Tensor) -> float:
    """In what share of those that the text can tell of."""
    known = lifts[lifts.isfinite()]
    return (known > 1).double().mean().item()
