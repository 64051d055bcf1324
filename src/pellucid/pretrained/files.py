"""The weights of a folder, as tensors that can be read straight into place, and safetensors files that are written.

A safetensors file is a length, a JSON header, and the bytes of the tensors one after the other. The header is checked
whole before anything is read: a file that was cut off, or whose header was damaged, is refused with file and tensor.
Old `pytorch_model.bin` files go through `torch.load(weights_only=True)`, so that no pickled code ever runs.
"""

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pellucid.base.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The names that safetensors headers use."""

_LONGEST_HEADER = 100 * 2**20
_LFS_POINTER = b"version https://git-lfs"


@runtime_checkable
class Stored(Protocol):
    """A tensor that lies somewhere and can be read in pieces."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    where: str
    """The file, or what else it comes from; for messages."""

    def read(self, target: Tensor, start: int = 0) -> None:
        """Fills `target`, contiguous and of the stored dtype, with the elements from the flat index `start` on."""
        ...

    def mapped(self) -> Tensor | None:
        """The tensor as it lies, if memory can show it without reading; changes never reach the file."""
        ...


class TensorFile:
    """A safetensors file whose header holds what it promises.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is not a whole safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            size = path.stat().st_size
            header, self.start = _header(file, size, path)
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.tensors = {name: self._tensor(name, entry, size) for name, entry in header.items()}
        self._check_cover(size)
        self._memory: mmap | None = None

    def read(self, target: Tensor, offset: int) -> None:
        """Fills a contiguous tensor with the bytes from `offset` on."""
        view = bytes_of(target)
        with _opened(self.path) as file:
            file.seek(offset)
            done = 0
            while done < len(view):
                got = file.readinto(view[done:])
                if not got:
                    raise CheckpointError(f"{self.path} must stay as it is while it is read; it became shorter")
                done += got

    def mapped(self, offset: int, count: int, dtype: torch.dtype) -> Tensor:
        """Elements of the file as memory of their own, as pickle sees it; what is changed there stays private."""
        if self._memory is None:
            with _opened(self.path) as file:
                self._memory = mmap(file.fileno(), 0, access=ACCESS_COPY)
        return torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset)

    def _tensor(self, name: str, entry: Any, size: int) -> "FileTensor":
        try:
            dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
                raise ValueError(entry)
        except (TypeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} must have dtype, shape and data_offsets, its header says {entry!r}; "
                "the file is damaged: get it again"
            ) from error
        if dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} must have a dtype among {', '.join(DTYPES)}, got {dtype!r}; "
                "get a checkpoint that is not quantised"
            )
        needed = math.prod(shape) * DTYPES[dtype].itemsize
        if end - begin != needed:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} of shape {list(shape)} and dtype {dtype} takes {needed} bytes, its "
                f"header gives it {end - begin}; the file is damaged: get it again"
            )
        if self.start + end > size:
            raise CheckpointError(
                f"{self.path}: tensor {name!r} ends at byte {self.start + end}, the file at {size}: it was cut off; "
                "get it again"
            )
        return FileTensor(self, name, DTYPES[dtype], shape, self.start + begin)

    def _check_cover(self, size: int) -> None:
        """Each byte belongs to one tensor, as the format wants it."""
        at, before = self.start, "the header"
        for tensor in sorted(self.tensors.values(), key=lambda t: (t.offset, t.n_bytes)):
            if tensor.offset != at:
                fault = "overlaps" if tensor.offset < at else "leaves a gap after"
                raise CheckpointError(
                    f"{self.path}: tensor {tensor.name!r} at byte {tensor.offset} {fault} {before}, which ends at "
                    f"{at}; the file is damaged: get it again"
                )
            at, before = tensor.offset + tensor.n_bytes, f"tensor {tensor.name!r}"
        if at != size:
            raise CheckpointError(
                f"{self.path} must end with its last tensor, at byte {at}, it has {size - at} bytes more; "
                "the file is damaged: get it again"
            )


class FileTensor:
    """A tensor in a safetensors file."""

    def __init__(self, file: TensorFile, name: str, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> None:
        self.file, self.name, self.dtype, self.shape, self.offset = file, name, dtype, shape, offset
        self.where = str(file.path)
        self.n_bytes = math.prod(shape) * dtype.itemsize

    def read(self, target: Tensor, start: int = 0) -> None:
        """Fills `target` with the elements from the flat index `start` on."""
        self.file.read(target, self.offset + start * self.dtype.itemsize)

    def mapped(self) -> Tensor | None:
        """A view of the file; None where it is empty or starts at a byte that memory cannot show as this dtype."""
        if self.offset % self.dtype.itemsize or not self.n_bytes:
            return None
        return self.file.mapped(self.offset, math.prod(self.shape), self.dtype).view(self.shape)


class HeldTensor:
    """A tensor that is in memory already, or that torch has mapped."""

    def __init__(self, name: str, tensor: Tensor, where: str) -> None:
        self.name, self.where, self._tensor = name, where, tensor.detach()
        self.dtype, self.shape = tensor.dtype, tuple(tensor.shape)

    def read(self, target: Tensor, start: int = 0) -> None:
        """Fills `target` with the elements from the flat index `start` on."""
        flat = self._tensor.reshape(-1)[start : start + target.numel()]
        target.copy_(flat.view(target.shape))

    def mapped(self) -> Tensor | None:
        """None: somebody else's memory is copied, never shared."""
        return None


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def find_weights(folder: Path) -> dict[str, Stored]:
    """Every tensor of the folder's checkpoint, by its name there.

    Args:
        folder: Holds `model.safetensors`, or `pytorch_model.bin`, or either in shards with their index.

    Raises:
        CheckpointError: There is no checkpoint, a shard is missing, or a file is damaged.
    """
    kinds: tuple[tuple[str, Callable[[Path], Mapping[str, Stored]]], ...] = (
        ("model.safetensors", lambda path: TensorFile(path).tensors),
        ("pytorch_model.bin", _unpickled),
    )
    for name, read in kinds:
        if (folder / name).is_file():
            return dict(read(folder / name))
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _sharded(index, read)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    raise CheckpointError(
        f"{folder} must hold weights (model.safetensors, pytorch_model.bin, or either in shards with its index), "
        f"found {found}; save or download the weights there"
    )


def held_weights(state: Mapping[str, Tensor], where: str) -> dict[str, Stored]:
    """The tensors of a state dict that is in memory; they are copied when they are read."""
    return {name: HeldTensor(name, tensor, where) for name, tensor in state.items()}


def write_tensors(
    path: Path, tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], made: Callable[[str], Tensor]
) -> None:
    """Writes a safetensors file, one tensor after the other.

    Args:
        path: The file.
        tensors: Dtype and shape of each.
        made: Gives each tensor when its turn comes, so that no second model is held.
    """
    codes = {dtype: code for code, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    names = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    at = 0
    for name in names:
        dtype, shape = tensors[name]
        end = at + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": codes[dtype], "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = made(name).detach().cpu().contiguous()
            file.write(bytes_of(tensor))


def _opened(path: Path) -> Any:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise CheckpointError(f"{path} must be a file that can be read: {error.strerror or error}") from error


def _header(file: Any, size: int, path: Path) -> tuple[dict[str, Any], int]:
    """What the header says, and the byte at which the tensors begin."""
    first = file.read(len(_LFS_POINTER))
    if first == _LFS_POINTER:
        raise CheckpointError(f"{path} must hold the weights, it is only a pointer to them; run: git lfs pull")
    length = int.from_bytes(first[:8], "little")
    if size < 8 or length > min(size - 8, _LONGEST_HEADER):
        raise CheckpointError(
            f"{path} must be a safetensors file: its header should take {length} bytes, the file has {size}; "
            "it was cut off or damaged: get it again"
        )
    file.seek(8)
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise CheckpointError(f"{path}: the header must be JSON: {error}; the file is damaged: get it again") from error
    if not isinstance(header, dict):
        raise CheckpointError(f"{path}: the header must be a table, got {type(header).__name__}; get it again")
    return header, 8 + length


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return table


def _sharded(index: Path, read: Callable[[Path], Mapping[str, Stored]]) -> dict[str, Stored]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f"{index} must have a table `weight_map` from tensors to files; get it again")
    shards: dict[str, Mapping[str, Stored]] = {}
    weights: dict[str, Stored] = {}
    for name, file in places.items():
        path = index.parent / file
        if file not in shards:
            if Path(file).name != file or not path.is_file():
                raise CheckpointError(
                    f"{path} must lie beside its index {index.name}, since tensor {name!r} is in it; get this shard"
                )
            shards[file] = read(path)
            twice = next((other for other in shards[file] if other in weights), None)
            if twice is not None:
                raise CheckpointError(f"{path}: tensor {twice!r} must be in one shard, it is in two; get them again")
            weights.update(shards[file])
        if name not in shards[file]:
            raise CheckpointError(f"{path} must hold tensor {name!r}, as {index.name} says; get this shard again")
    return weights


def _unpickled(path: Path) -> dict[str, Stored]:
    """Mapped by torch where the file is of its newer kind; held in memory otherwise."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise CheckpointError(
            f"{path} must hold nothing but tensors, it is damaged or asks for code to be run: "
            f"{str(error).splitlines()[0]} Get the model as safetensors, which cannot hold code"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} must be a whole file of torch.save: {error}; get it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} must hold a table of tensors (a state dict), it holds {_described(state)}")
    return held_weights(state, str(path))


def _described(state: object) -> str:
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    name, value = next((n, v) for n, v in state.items() if not isinstance(v, Tensor))
    return f"a {type(value).__name__} under {name!r}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON table.

    Raises:
        CheckpointError: It is not.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} must be readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must be a JSON table, got {type(values).__name__}")
    return values
