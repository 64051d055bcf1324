"""A tuned lens in a folder: tensors as safetensors, and beside them what they are for.

`tuned_lens.json` tells the model (its shape and the hash of its weights), how the lens was trained, and the SHA-256 of
`tuned_lens.safetensors`: a file that was cut off or exchanged does not load.
"""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from pellucid.analysis.tuned_lens import HeldOut, TunedLens
from pellucid.base.errors import ArgumentError, CheckpointError, OutputError
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.hooked_transformer import HookedTransformer
from pellucid.measurement import Measurement
from pellucid.pretrained.native import weights_hash

NAME = "tuned_lens"
VERSION = 1


def save(lens: TunedLens, folder: str | Path, *, overwrite: bool = False) -> None:
    """Writes a lens: all of it or nothing.

    Args:
        lens: What is written.
        folder: Made if it is not there.
        overwrite: Replace a lens that lies there.

    Raises:
        OutputError: The folder cannot be written, or holds a lens.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from pellucid.analysis.tuned_lens import train_tuned_lens
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> lens = train_tuned_lens(model, torch.tensor([[0, 5, 6, 5]]), steps=1, batch=1, held_out=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lens.save(folder)
        ...     torch.equal(TunedLens.load(folder, model).weight, lens.weight)
        True
    """
    from safetensors.torch import save as packed

    folder = Path(folder)
    if (folder / f"{NAME}.json").exists() and not overwrite:
        raise OutputError(f"{folder} holds a tuned lens already; choose another folder, or overwrite=True")
    tensors = {"weight": lens.weight.cpu().contiguous(), "bias": lens.bias.cpu().contiguous()}
    if lens.held_out is not None:
        import torch

        for name in HeldOut._fields:
            tensors[f"held_out.{name}"] = torch.from_numpy(getattr(lens.held_out, name).values.copy())
    raw = packed(tensors)
    n_layers, d_model = lens.bias.shape
    told = {
        "format": "pellucid tuned lens",
        "version": VERSION,
        "n_layers": n_layers,
        "d_model": d_model,
        "d_vocab": lens.d_vocab,
        "sha256": sha256(raw).hexdigest(),
        "record": lens.record.to_dict(),
    }
    with written_aside(folder) as aside:
        aside.mkdir()
        (aside / f"{NAME}.safetensors").write_bytes(raw)
        (aside / f"{NAME}.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: str | Path, model: HookedTransformer) -> TunedLens:
    """Reads the lens of a model.

    Args:
        folder: Where `save` wrote it.
        model: The model that it was trained on, with the same processing and dtype.

    Raises:
        CheckpointError: No lens lies there, or a damaged one, or one of another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as unpacked

    folder = Path(folder)
    told = _told(folder / f"{NAME}.json")
    record = Record.from_dict(told["record"])
    _check_model(folder, told, record, model)
    path = folder / f"{NAME}.safetensors"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} must be readable, got: {error.strerror or error}") from error
    if sha256(raw).hexdigest() != told["sha256"]:
        raise CheckpointError(
            f"{path} must be the file that {NAME}.json tells of, got another or a damaged one; save anew"
        )
    try:
        tensors = unpacked(raw)
        weight, bias = (tensors[name].to(model.device) for name in ("weight", "bias"))
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} must hold weight and bias, got: {error}") from error
    kept = {name: tensors.get(f"held_out.{name}") for name in HeldOut._fields}
    measured = {
        name: Measurement(x, ("prompt", "layer"), unit="nats", record=record, name=f"{name} lens, KL to the final")
        for name, x in kept.items()
        if x is not None
    }
    held_out = HeldOut(**measured) if len(measured) == len(kept) else None
    return TunedLens(weight=weight, bias=bias, record=record, held_out=held_out, d_vocab=told["d_vocab"])


def _told(path: Path) -> dict[str, Any]:
    """What the JSON file says."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} must be a folder with a tuned lens, got none; save writes one")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != "pellucid tuned lens" or told["version"] != VERSION:
            raise CheckpointError(
                f"{path} must be of version {VERSION}, got {told['version']!r}; a newer Pellucid may read it"
            )
        Record.from_dict(told["record"])
        return {name: told[name] for name in ("n_layers", "d_model", "d_vocab", "sha256", "record")}
    except (ValueError, KeyError, TypeError, AttributeError, ArgumentError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} must be what save wrote, got: {error!r}; save it anew") from error


def _check_model(folder: Path, told: dict[str, Any], record: Record, model: HookedTransformer) -> None:
    config = model.config
    here = {"n_layers": config.n_layers, "d_model": config.d_model, "d_vocab": config.vocab_out}
    for name, size in here.items():
        if told[name] != size:
            raise CheckpointError(
                f"{folder} is a tuned lens of {record.model or 'another model'} with {name}={told[name]}, got a model "
                f"with {name}={size}; load the lens with its own model"
            )
    found = weights_hash(model)
    if record.weights_hash != found:
        ours, theirs = (
            f"weights {str(one)[:12]}… ({dtype}; processing: {', '.join(steps) or 'none'})"
            for one, dtype, steps in (
                (record.weights_hash, record.dtype, record.processing),
                (found, str(model.dtype).removeprefix("torch."), model.record.processing),
            )
        )
        raise CheckpointError(
            f"{folder} is a tuned lens of {record.model or 'another model'}, {ours}, got a model with {theirs}; load "
            "the model as it was, or train a lens for this one"
        )
