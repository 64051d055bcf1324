"""One run of the study of attention-only models: a model is trained, and put to the questions.

In: a job, the name of an arm, a seed and a text. Out: tensors by name, all that the study asks of the run. The model
itself is not kept, so that a run may happen in another process.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.base.errors import MisreadWarning
from pellucid.hooked_transformer import HookedTransformer
from pellucid.studies.attention_only_arms import LAYERS, Arm, Sizes
from pellucid.studies.attention_only_reading import attention_to_first, beside_bigrams, beside_trigrams, maps
from pellucid.train.run import Run, train
from pellucid.train.summary import figures
from pellucid.train.text import Text

CURVES = ("bits_per_byte", "in_context_score")
MAPPED = ("1_layers", "2_layers", "cost_bos")
"""Arms whose first run shows its attention on the text."""
ROWS = 32
"""Held-out rows on which attention to the first token is measured."""


def run(job: Mapping[str, Any]) -> dict[str, Tensor]:
    """Trains and asks.

    Args:
        job: ``{"arm": …, "seed": …, "source": …, "text": …, "quick": …, "full": …}``.

    Returns:
        The numbers of `pellucid.train.summary.figures`; ``losses [step]``; ``steps [step]`` and at these
        ``curve.bits_per_byte``, ``curve.in_context_score``; without layers ``bigrams [3]``; of one layer the parts of
        `BesideTrigrams` and their ``words``; of some arms ``first [layer head]``, and for the first seed the parts of
        `Maps`, their ``map.words`` and ``map.tokens``. Of several processes the first one alone says something.
    """
    sizes = Sizes(quick=job["quick"], full=job["full"])
    arm = next(arm for arm in sizes.arms if arm.name == job["arm"])
    device = None if sizes.full else "cpu"  # None: a GPU where there is one, of several processes each its own
    trained = train(sizes.recipe(arm, job["seed"], job["source"]), device=device, shown=False)
    if CURVES[0] not in trained.probes:
        return {}  # of several processes, the first one has them
    found = {name: torch.tensor(value, dtype=torch.float64) for name, value in figures(trained).items()}
    found["losses"] = torch.tensor(trained.history.values, dtype=torch.float64)
    for name in CURVES:
        found[f"curve.{name}"] = torch.tensor(trained.probes[name].values, dtype=torch.float64)
    found["steps"] = torch.tensor(trained.probes[CURVES[0]].dataset["step"].values)
    if arm in LAYERS or arm.name in MAPPED:
        found |= _read(trained, arm, job)
    return found


def _read(trained: Run, arm: Arm, job: Mapping[str, Any]) -> dict[str, Tensor]:
    model, data = trained.model, trained.recipe.data
    model.to("cpu")
    if not isinstance(model, HookedTransformer) or not isinstance(data, Text) or model.tokenizer is None:
        return {}
    packed = data.packed(model.tokenizer)
    rows, held_out = (torch.from_numpy(part.astype("int64")) for part in (packed.train, packed.held_out))
    if not model.config.n_layers:
        return {"bigrams": torch.tensor(beside_bigrams(model, rows, held_out), dtype=torch.float64)}
    found = {"first": attention_to_first(model, held_out[:ROWS])}
    if arm.name == "1_layers":
        read = beside_trigrams(model, rows)
        ids = read.triples[:, 1:].flatten().tolist()
        found |= {name: getattr(read, name) for name in read._fields} | {"words": words(model.tokenizer.strings(ids))}
    if arm.name in MAPPED and not job["seed"]:
        found |= mapped(model, job["text"])
    return found


def mapped(model: HookedTransformer, text: str, *, layers: int | None = None) -> dict[str, Tensor]:
    """What the heads of a model do on a text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MisreadWarning)  # a model that was trained without BOS has none
        tokens = model.to_tokens(text)
    shown = maps(model, tokens, layers=layers)
    names = {
        "map.tokens": model.to_str_tokens(tokens[0]),
        "map.words": model.to_str_tokens(shown.top.flatten()),
    }
    found = {f"map.{name}": getattr(shown, name) for name in shown._fields}
    return found | {name: words(strings) for name, strings in names.items()}


def words(strings: Sequence[object]) -> Tensor:
    """Strings as a tensor, which a journal takes."""
    return torch.frombuffer(bytearray(json.dumps(strings).encode()), dtype=torch.uint8)


def read_words(x: Tensor) -> list[str]:
    """The inverse of `words`."""
    return json.loads(bytes(x.tolist()))
