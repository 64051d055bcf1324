"""A model becomes a folder: in the format of its family, which transformers reads, or in Pellucid's own."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.base.errors import ArgumentError, CheckpointError, ConfigError
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.model.config import Config
from pellucid.model.embed import TiedUnembed
from pellucid.model.transformer import Transformer
from pellucid.pretrained.families import FAMILIES
from pellucid.pretrained.files import write_tensors
from pellucid.pretrained.native import NATIVE, native_values, weights_hash
from pellucid.pretrained.rules import Format, places
from pellucid.text.tokenizer import Tokenizer


def save_pretrained(
    model: Transformer,
    folder: str | Path,
    *,
    family: str | None = None,
    tokenizer: Tokenizer | None = None,
    record: Record | None = None,
) -> None:
    """Writes a model to a folder that `load` reads: all of it or nothing.

    Args:
        model: The model.
        folder: Made if it is not there; files of the same names are replaced.
        family: `"gpt2"`, `"llama"`: in that family's format, which `transformers` reads; `"pellucid"`: in Pellucid's
            own; None: in that of the family which the record names, if it can express the model, else in Pellucid's.
        tokenizer: Written beside it.
        record: Where the weights came from and what was done to them.

    Raises:
        ArgumentError: There is no such family.
        CheckpointError: The family cannot express this model; the message says why.
        OutputError: The folder cannot be written.
    """
    if not isinstance(model.unembed, TiedUnembed) and model.config.tied:
        config = model.config.change(tied=False)
    else:
        config = model.config
    record, dtype = record or Record(), str(model.dtype).removeprefix("torch.")
    form, values = _described(config, record, family)
    if form is NATIVE:
        values = native_values(config, record.add(weights_hash=weights_hash(model), dtype=dtype))
    else:
        values["torch_dtype"] = dtype
        for role in ("bos", "eos", "pad"):
            values[f"{role}_token_id"] = tokenizer and getattr(tokenizer, f"{role}_token_id")
    with written_aside(folder) as aside:
        aside.mkdir()
        _write_weights(model, form, aside)
        (aside / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            tokenizer.save(aside)


def _described(config: Config, record: Record, family: str | None) -> tuple[Format, dict[str, Any]]:
    """The format, and what its `config.json` says of the configuration."""
    if family == "pellucid":
        return NATIVE, {}
    name = family or record.settings.get("family")
    if name not in FAMILIES:
        if family is None:
            return NATIVE, {}
        raise ArgumentError(f"family must be one of pellucid, {', '.join(sorted(FAMILIES))}, got {family!r}")
    try:
        if config.architecture != "decoder":
            raise ConfigError(f"it holds decoders only, and this is an {config.architecture}")
        return FAMILIES[name].form, FAMILIES[name].fields(config)
    except (ConfigError, CheckpointError) as error:
        if family is None:
            return NATIVE, {}
        done = f" (it was processed: {', '.join(record.processing)})" if record.processing else ""
        raise CheckpointError(f"this model{done} cannot be saved as {name}: {error}") from error


def _write_weights(model: Transformer, form: Format, folder: Path) -> None:
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    found = places(form.rules, {name: tuple(p.shape) for name, p in parameters.items()}, model.config.n_layers)
    by_name = {place.theirs: place for place in found}

    def made(name: str) -> Tensor:
        return by_name[name].stored([parameters[ours].detach() for ours in by_name[name].ours])

    shapes = {name: (parameters[place.ours[0]].dtype, place.shape) for name, place in by_name.items()}
    write_tensors(folder / "model.safetensors", shapes, made)
