"""A name becomes a model: its files are found, its weights read into place, then processed.

Knows no facade: the caller says what to make of the configuration (`make`), and gets the tokenizer as a function that
reads it when it is first needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pellucid.base.errors import ArgumentError, nearest
from pellucid.base.record import Record
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.pretrained.families import family_of
from pellucid.pretrained.files import find_weights, read_json
from pellucid.pretrained.names import find
from pellucid.pretrained.processing import Processing
from pellucid.pretrained.rules import Reading, checked, places, read_into

DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
"""What weights may be held as."""


class Loaded(NamedTuple):
    """What `load` gives."""

    model: Any
    """What `make` made of the configuration, with its weights."""
    tokenizer: Callable[[], Any]
    """Reads the folder's tokenizer; gives None where there is none."""
    record: Record
    """Where the weights came from and what was done to them."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a model is read.

    Args:
        dtype: Of the weights as held: a float dtype of torch, or its name.
        device: Where they go.
        mmap: Map the files into memory instead of reading them. None: only files of the hub's cache, which nobody
            overwrites. A mapped file must stay as it is while the model lives: one that is overwritten changes the model,
            one that is cut off kills the process. Changes of the model never reach the file.
        first_n_layers: Leave out the layers after these.
        hf_model: A model of `transformers` whose weights and configuration are taken; they are copied.
        revision: Branch, tag or commit, for names on the hub.

    Raises:
        ArgumentError: A value cannot be.
    """

    dtype: torch.dtype | str = torch.float32
    device: torch.device | str | None = None
    mmap: bool | None = None
    first_n_layers: int | None = None
    hf_model: Any = None
    revision: str | None = None

    def __post_init__(self) -> None:
        name = str(self.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}{nearest(name, DTYPES)}")
        object.__setattr__(self, "dtype", DTYPES[name])
        if self.first_n_layers is not None and self.first_n_layers < 1:
            raise ArgumentError(f"first_n_layers must be 1 or more, got {self.first_n_layers}; leave it out for all")


def load(
    name: str | Path,
    *,
    make: Callable[[Config], Any] = Decoder,
    processing: Processing = Processing(),  # noqa: B008
    options: Options = Options(),  # noqa: B008
) -> Loaded:
    """A trained model: from a folder, a bundled one, or a name on the hub.

    Args:
        name: A folder, the name of a bundled model, an alias, or a name on the hub; looked up in this order.
        make: Makes the model of its configuration; called under `torch.device("meta")`, so that no weights are drawn.
        processing: Which changes are made that leave the model's probabilities as they are.
        options: How it is read.

    Raises:
        CheckpointError: Nothing can be loaded under that name, or a file is damaged or of an unknown kind.
        ArgumentError: An option cannot be.
    """
    place = find(name, revision=options.revision)
    values = read_json(place.folder / "config.json")
    where = str(place.folder / "config.json")
    family = family_of(values.get("model_type"), where)
    config = family.config(values, where)
    with torch.device("meta"):
        model = make(config)
    weights = find_weights(place.folder)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = places(family.form.rules, shapes, config.n_layers)
    wanted = checked(family.form, found, weights, where=str(place.folder))
    mmap = options.mmap if options.mmap is not None or place.from_hub else False
    read_into(model, wanted, weights, Reading(dtype=options.dtype, device=torch.device(options.device or "cpu"), mmap=mmap))
    record = Record(model=str(name), revision=place.revision, dtype=str(options.dtype).removeprefix("torch."))
    return Loaded(model, partial(_tokenizer, place.folder, values), record)


def _tokenizer(folder: Path, values: dict[str, Any]) -> Any:
    from pellucid.text.read import read_tokenizer

    ids = {f"{role}_id": _first(values.get(f"{role}_token_id")) for role in ("bos", "eos", "pad")}
    return read_tokenizer(folder, **ids)


def _first(ids: Any) -> int | None:
    """A configuration may name several tokens that end a text; the first one is the usual."""
    first = ids[0] if isinstance(ids, list) and ids else ids
    return first if isinstance(first, int) else None
