"""A name becomes a model: its files are found, its weights read into place, then processed.

Knows no facade: the caller says what to make of the configuration (`make`), and gets the tokenizer as a function that
reads it when it is first needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pellucid.base.errors import ArgumentError, CheckpointError, nearest
from pellucid.base.record import VERSION, Record
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.pretrained.families import family_of
from pellucid.pretrained.files import Stored, find_weights, held_weights, read_json
from pellucid.pretrained.names import find
from pellucid.pretrained.native import NATIVE, is_native, read_native
from pellucid.pretrained.processing import Processing, process
from pellucid.pretrained.rules import Format, Reading, checked, places, read_into
from pellucid.text.read import read_tokenizer
from pellucid.text.tokenizer import Tokenizer

DTYPES = {str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}
"""What weights may be held as."""


class Loaded(NamedTuple):
    """What `load` gives."""

    model: Any
    """What `make` made of the configuration, with its weights."""
    tokenizer: Callable[[], Tokenizer | None]
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
            overwrites. A mapped file must stay as it is while the model lives: one that is overwritten changes the
            model, one that is cut off kills the process. Changes of the model never reach the file.
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
        try:
            torch.device(self.device or "cpu")
        except RuntimeError as error:
            raise ArgumentError(f"device must be one that torch knows, got {self.device!r}: {error}") from error
        if self.first_n_layers is not None and self.first_n_layers < 1:
            raise ArgumentError(f"first_n_layers must be 1 or more, got {self.first_n_layers}; leave it out for all")

    def reading(self, *, mmap: bool) -> Reading:
        """What the reader needs to know; `mmap` is whether a file may be mapped where nobody said so."""
        dtype = DTYPES[str(self.dtype).removeprefix("torch.")]
        unsaid = None if mmap else False
        device = torch.device(self.device or "cpu")
        return Reading(dtype=dtype, device=device, mmap=unsaid if self.mmap is None else self.mmap)


def load(
    name: str | Path,
    *,
    make: Callable[[Config], Any] = Decoder,
    processing: Processing = Processing(),  # noqa: B008
    options: Options = Options(),
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
    source = _found(name, options.revision) if options.hf_model is None else _held(name, options)
    kept = _kept(source, options.first_n_layers)
    with torch.device("meta"):
        model = make(kept)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    wanted = checked(
        source.form,
        places(source.form.rules, shapes, kept.n_layers),
        source.weights,
        where=source.where,
        left_out=_left_out(source, kept),
    )
    read_into(model, wanted, source.weights, options.reading(mmap=source.lasting))
    processable = isinstance(model, Decoder)  # the steps know decoders only
    steps = process(model, processing, done=source.record.processing) if processable else ()
    return Loaded(model, source.tokenizer, _recorded(source.record, model, steps, kept != source.config))


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Everything that is known of a model before its weights are read."""

    where: str
    config: Config
    form: Format
    weights: Mapping[str, Stored]
    record: Record
    tokenizer: Callable[[], Tokenizer | None]
    lasting: bool
    """Whether its files are ones that nobody overwrites."""


def _found(name: str | Path, revision: str | None) -> _Source:
    place = find(name, revision=revision)
    path = place.folder / "config.json"
    values = read_json(path)
    if is_native(values):
        form = NATIVE
        config, record = read_native(values, str(path))
    else:
        family = family_of(values.get("model_type"), str(path))
        form, config = family.form, family.config(values, str(path))
        record = Record(settings={"family": family.name})
    return _Source(
        where=str(place.folder),
        config=config,
        form=form,
        weights=find_weights(place.folder),
        record=record.add(model=str(name), revision=place.revision, version=VERSION),
        tokenizer=partial(_tokenizer, place.folder.absolute(), values),
        lasting=place.from_hub,
    )


def _held(name: str | Path, options: Options) -> _Source:
    """A model of transformers that the caller holds; only its tokenizer is looked for under the name."""
    hf_model = options.hf_model
    try:
        values, state = hf_model.config.to_dict(), hf_model.state_dict()
    except AttributeError as error:
        raise ArgumentError(
            f"hf_model must be a model of transformers, with config and state_dict, got {type(hf_model).__name__}"
        ) from error
    where = f"hf_model {type(hf_model).__name__}"
    family = family_of(values.get("model_type"), where)
    return _Source(
        where=where,
        config=family.config(values, where),
        form=family.form,
        weights=held_weights(state, where),
        record=Record(model=str(name), settings={"family": family.name, "hf_model": type(hf_model).__name__}),
        tokenizer=partial(_named_tokenizer, name, options.revision, values),
        lasting=False,
    )


def _kept(source: _Source, first_n_layers: int | None) -> Config:
    n_layers = source.config.n_layers
    if first_n_layers is not None and first_n_layers > n_layers:
        raise ArgumentError(
            f"first_n_layers must be at most {n_layers}, all that {source.where} has, got {first_n_layers}"
        )
    return source.config.change(n_layers=first_n_layers or n_layers)


def _left_out(source: _Source, kept: Config) -> list[str]:
    """Names of what is stored for the layers that are not wanted."""
    layers = range(kept.n_layers, source.config.n_layers)
    return [rule.theirs.format(l=layer) for rule in source.form.rules if "{l}" in rule.theirs for layer in layers]


def _recorded(record: Record, model: Any, steps: tuple[str, ...], shortened: bool) -> Record:
    held = str(model.dtype).removeprefix("torch.")
    same = record.dtype == held and not steps and not shortened
    return record.add(
        weights_hash=record.weights_hash if same else None,
        processing=record.processing + steps,
        device=str(model.device),
        dtype=held,
        settings={"first_n_layers": model.config.n_layers} if shortened else {},
    )


def _named_tokenizer(name: str | Path, revision: str | None, values: dict[str, Any]) -> Tokenizer | None:
    """The tokenizer that lies under a name, for a model that does not come from there."""
    try:
        return _tokenizer(find(name, revision=revision, any_folder=True).folder, values)
    except CheckpointError as error:
        raise CheckpointError(
            f"reading the tokenizer of {str(name)!r}: {error}; or set model.tokenizer (None if ids are all you give)"
        ) from error


def _tokenizer(folder: Path, values: dict[str, Any]) -> Tokenizer | None:
    ids = {f"{role}_id": _first(values.get(f"{role}_token_id")) for role in ("bos", "eos", "pad")}
    return read_tokenizer(folder, **ids)


def _first(ids: Any) -> int | None:
    """A configuration may name several tokens that end a text; the first one is the usual."""
    first = ids[0] if isinstance(ids, list) and ids else ids
    return first if isinstance(first, int) else None
