"""A tuned lens in a folder: one file, whose tensors are the lens and whose header tells what they are for.

The header of `tuned_lens.safetensors` has the model (its shape and the hash of its weights), how the lens was trained,
and the SHA-256 of the tensors: a file that was cut off or damaged does not load.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pellucid.analysis.tuned_lens import HeldOut, TunedLens
from pellucid.base.errors import ArgumentError, CheckpointError, OutputError
from pellucid.base.files import check_place, written_aside
from pellucid.base.record import Record
from pellucid.hooked_transformer import HookedTransformer
from pellucid.measurement import Measurement
from pellucid.pretrained.native import tensors_hash

NAME = "tuned_lens.safetensors"
FORMAT = "pellucid tuned lens, version 2"


def check_folder(folder: str | Path, *, overwrite: bool = False) -> Path:
    """Whether a lens can be saved there; asked before a long training.

    Returns:
        The file that it will be.

    Raises:
        OutputError: The folder cannot be written, or holds a lens.
    """
    file = Path(folder) / NAME
    check_place(folder, folder=True)
    check_place(file)
    if file.exists() and not overwrite:
        raise OutputError(f"{folder} holds a tuned lens already; choose another folder, or overwrite=True")
    return file


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
    from safetensors.torch import save_file

    file = check_folder(folder, overwrite=overwrite)
    tensors = {"weight": lens.weight.cpu().contiguous(), "bias": lens.bias.cpu().contiguous()}
    told: dict[str, Any] = {"record": lens.record.to_dict(), "d_vocab": lens.d_vocab}
    if lens.held_out is not None:
        for name, kl in lens.held_out._asdict().items():
            tensors[f"held_out.{name}"] = torch.from_numpy(kl.values.copy())
        told["held_out"] = {name: kl.record.to_dict() for name, kl in lens.held_out._asdict().items()}
    told["sha256"] = tensors_hash(tensors)
    with written_aside(file) as aside:
        save_file(tensors, aside, {"format": FORMAT, "pellucid": json.dumps(told, ensure_ascii=False)})


def load(folder: str | Path, model: HookedTransformer) -> TunedLens:
    """Reads the lens of a model.

    Args:
        folder: Where `save` wrote it.
        model: The model that it was trained on, with the same processing and dtype.

    Raises:
        CheckpointError: No lens lies there, or a damaged one, or one of another model.
    """
    file = Path(folder) / NAME
    if not file.is_file():
        raise CheckpointError(f"{folder} must be a folder with a tuned lens, got none; save writes one")
    told, tensors = _read(file)
    try:
        record = Record.from_dict(told["record"])
        weight, bias, held_out = tensors["weight"], tensors["bias"], None
        if "held_out" in told:
            held_out = HeldOut(
                *(
                    Measurement(
                        tensors[f"held_out.{name}"],
                        ("prompt", "layer"),
                        unit="nats",
                        record=Record.from_dict(told["held_out"][name]),
                        name=f"{name} lens, KL to the final",
                    )
                    for name in HeldOut._fields
                )
            )
        weight, bias = (x.to(model.device) for x in (weight, bias))
        lens = TunedLens(weight=weight, bias=bias, record=record, held_out=held_out, d_vocab=int(told["d_vocab"]))
    except (KeyError, TypeError, ValueError, AttributeError, ArgumentError) as error:
        raise CheckpointError(f"{file} must be what save wrote, got: {error!r}; save it anew") from error
    try:
        lens.check(model)
    except ArgumentError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return lens


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(what the header tells, tensors), undamaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
        if header.get("format") != FORMAT:
            raise CheckpointError(f"{file} must be a {FORMAT}, got {header.get('format')!r}; train it anew")
        told = json.loads(header["pellucid"])
        if told["sha256"] != tensors_hash(tensors):
            raise CheckpointError(f"{file} is damaged: its tensors are not those that were saved; save it anew")
        return told, tensors
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} must be what save wrote, got: {error}; save it anew") from error
