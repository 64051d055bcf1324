"""Pellucid's own format, which holds any model: `config.json` and `model.safetensors`.

The tensors bear the names and shapes of the model's `state_dict`, those of the field, each in its natural order:
whoever opens the file finds `W_Q` as `[head d_model d_head]`. `W_Q W_K W_V W_U` are put into the order that products
want while they are read. A tied model holds `embed.W_E` once.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pellucid.base.errors import ArgumentError, CheckpointError, ConfigError
from pellucid.base.record import Record
from pellucid.model.config import Config
from pellucid.pretrained.files import bytes_of
from pellucid.pretrained.rules import BUFFER, Format, Rule

VERSION = 1
"""Of the format; raised when older readers could misread a newer file."""

_AXES = {
    "embed.W_E": "d_vocab d_model",
    "pos_embed.W_pos": "n_ctx d_model",
    "blocks.{l}.ln1.w": "d_model",
    "blocks.{l}.ln1.b": "d_model",
    "blocks.{l}.attn.W_Q": "head d_model d_head",
    "blocks.{l}.attn.W_K": "kv_head d_model d_head",
    "blocks.{l}.attn.W_V": "kv_head d_model d_head",
    "blocks.{l}.attn.W_O": "head d_head d_model",
    "blocks.{l}.attn.b_Q": "head d_head",
    "blocks.{l}.attn.b_K": "kv_head d_head",
    "blocks.{l}.attn.b_V": "kv_head d_head",
    "blocks.{l}.attn.b_O": "d_model",
    "blocks.{l}.ln2.w": "d_model",
    "blocks.{l}.ln2.b": "d_model",
    "blocks.{l}.mlp.W_in": "d_model d_mlp",
    "blocks.{l}.mlp.W_gate": "d_model d_mlp",
    "blocks.{l}.mlp.W_out": "d_mlp d_model",
    "blocks.{l}.mlp.b_in": "d_mlp",
    "blocks.{l}.mlp.b_gate": "d_mlp",
    "blocks.{l}.mlp.b_out": "d_model",
    "ln_final.w": "d_model",
    "ln_final.b": "d_model",
    "unembed.W_U": "d_model d_vocab",
    "unembed.b_U": "d_vocab",
}

_IN_MEMORY = {
    "blocks.{l}.attn.W_Q": "head d_head d_model",
    "blocks.{l}.attn.W_K": "kv_head d_head d_model",
    "blocks.{l}.attn.W_V": "kv_head d_head d_model",
    "unembed.W_U": "d_vocab d_model",
}

_BLOCK = "blocks.{l}."


def _of_both_stacks(table: dict[str, str]) -> dict[str, str]:
    """The same for an encoder–decoder, whose decoder has attention to the source and a third norm beside."""
    found = {}
    for name, axes in table.items():
        part = name.removeprefix(_BLOCK)
        if part == name:
            continue
        found |= {f"{stack}.{{l}}.{part}": axes for stack in ("encoder", "decoder")}
        if part.startswith("attn."):
            found[f"decoder.{{l}}.cross_{part}"] = axes
        if part.startswith("ln2."):
            found[f"decoder.{{l}}.ln3.{part.removeprefix('ln2.')}"] = axes
    return found


_ENDS = {"decoder_pos_embed.W_pos": "n_ctx d_model"} | {
    f"{stack}_final_ln.{part}": "d_model" for stack in ("encoder", "decoder") for part in ("w", "b")
}
_ALL = _AXES | _of_both_stacks(_AXES) | _ENDS
_ALL_IN_MEMORY = _IN_MEMORY | _of_both_stacks(_IN_MEMORY)

NATIVE = Format(
    rules=tuple(Rule(name, (name,), f"{axes} -> {axes}", _ALL_IN_MEMORY.get(name)) for name, axes in _ALL.items())
)
"""Each parameter under its own name."""


def is_native(values: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is one of this format."""
    return values.get("format") == "pellucid"


def read_native(values: Mapping[str, Any], where: str) -> tuple[Config, Record]:
    """Configuration and record of a `config.json`.

    Raises:
        CheckpointError: It is not of this format, or newer than this program.
    """
    unknown = sorted(set(values) - {"format", "version", "config", "record"})
    if values.get("version") != VERSION or unknown:
        raise CheckpointError(
            f"{where} must be of version {VERSION} of Pellucid's format, got version {values.get('version')!r}"
            f"{f' with the unknown field {unknown[0]!r}' if unknown else ''}; a newer Pellucid may read it"
        )
    try:
        record = Record.from_dict(values["record"]) if "record" in values else Record()
        return Config.from_dict(values["config"]), record
    except (ConfigError, ArgumentError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where}: config and record must be tables with their fields: {error!r}") from error


def native_values(config: Config, record: Record) -> dict[str, Any]:
    """The `config.json` of a model."""
    return {"format": "pellucid", "version": VERSION, "config": config.to_dict(), "record": record.to_dict()}


def weights_hash(model: nn.Module) -> str:
    """`tensors_hash` of the weights as held."""
    return tensors_hash(model.state_dict())


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and values, however they lie in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        rows = tensor[None] if tensor.ndim == 0 else tensor
        row_bytes = max(1, rows[:1].numel() * tensor.dtype.itemsize)
        for piece in rows.split(max(1, BUFFER // row_bytes)):
            digest.update(bytes_of(piece.cpu().contiguous()))
    return digest.hexdigest()
