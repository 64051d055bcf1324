"""Small checkpoints for tests, written with and without Pellucid."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from pellucid.model.config import Config
from pellucid.model.decoder import Decoder


def scrambled(config: Config, dtype: torch.dtype = torch.float32) -> Decoder:
    """A model whose every weight, norms and biases too, is far from its initial value."""
    model = Decoder(config, seed=0).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if name.endswith((".w", ".b")):
                parameter.add_(0.7)
    return model


def as_pickles(folder: Path) -> None:
    """Turns the shards of a folder into the older `.bin` files."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (folder / "model.safetensors.index.json").unlink()
    for path in folder.glob("*.safetensors"):
        torch.save(load_file(path), path.with_name(path.name.replace("model", "pytorch_model")).with_suffix(".bin"))
        path.unlink()
    for name, file in index["weight_map"].items():
        index["weight_map"][name] = file.replace("model", "pytorch_model").replace(".safetensors", ".bin")
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def tensor_file(tensors: dict[str, Tensor], header: dict | None = None, **options: object) -> bytes:
    """The bytes of a safetensors file whose header may be anything."""
    body = b"".join(tensor.numpy().tobytes() for tensor in tensors.values())
    if header is None:
        header, at = {}, 0
        for name, tensor in tensors.items():
            end = at + tensor.numel() * tensor.itemsize
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, end]}
            at = end
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body
