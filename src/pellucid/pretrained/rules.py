"""Weight names and layouts of a checkpoint, as data that runs both ways: file to parameters, parameters to file.

A rule says where a stored tensor goes and, as an einops pattern, how its axes are those of the parameter. Patterns
only rename, split and transpose, so that a parameter is a *view* of memory in the file's own order: a tensor is read
straight into place, or mapped, and is not transposed. Only a rule that names another order in memory, or that takes a
packed tensor apart, goes through a buffer of bounded size.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from pellucid.base.errors import ArgumentError, CheckpointError, nearest
from pellucid.pretrained.files import Stored

BUFFER = 8 * 2**20
"""Bytes that are held at most on the way between a file and a tensor of another dtype, device or order."""


@dataclass(frozen=True)
class Rule:
    """Where a stored tensor goes.

    Args:
        theirs: Its name in the file; `{l}` stands for the layer.
        ours: The parameter; several where the file packs them into one tensor, told apart by the pattern's axis `part`.
        pattern: From the file's axes to the parameter's, in the words of einops.
        memory: The parameter's axes as they must lie in memory, slowest first; None: as in the file.

    Example:
        >>> Rule("h.{l}.c_attn.bias", ("b_Q", "b_K", "b_V"), "(part head d_head) -> part head d_head").axes
        ['part', 'head', 'd_head']
    """

    theirs: str
    ours: tuple[str, ...]
    pattern: str
    memory: str | None = None

    @property
    def axes(self) -> list[str]:
        """The axes of the parameter, after `part` where there are several."""
        return self.pattern.split("->")[1].split()


@dataclass(frozen=True)
class Place:
    """A rule at one layer of one model."""

    theirs: str
    ours: tuple[str, ...]
    pattern: str
    sizes: Mapping[str, int]
    """Length of each axis of the pattern."""
    memory: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stored tensor."""
        return tuple(_rearranged(torch.empty(tuple(self.sizes.values()), device="meta"), self._back, self.sizes).shape)

    def views(self, stored: Tensor, **sizes: int) -> list[Tensor]:
        """The parameters, as views of a tensor in the file's layout; `sizes` says where it is only a part of it."""
        whole = _rearranged(stored, self.pattern, {**self.sizes, **sizes})
        return list(whole) if "part" in self.sizes else [whole]

    def stored(self, parameters: Sequence[Tensor]) -> Tensor:
        """The tensor for the file, contiguous; a view where the parameters lie in its layout."""
        whole = torch.stack(list(parameters)) if "part" in self.sizes else parameters[0]
        return _rearranged(whole, self._back, self.sizes).contiguous()

    def targets(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Room for each parameter, laid out as it must be in memory."""
        if self.memory is not None:
            room = torch.empty([self.sizes[axis] for axis in self.memory.split()], dtype=dtype, device=device)
            return [rearrange(room, f"{self.memory} -> {self.pattern.split('->')[1]}")]
        strided = self.views(torch.empty(self.shape, dtype=dtype, device="meta"))
        # As `empty_like` would; on another device than the view's that imports SymPy, half a second.
        slowest_first = [sorted(range(view.ndim), key=view.stride, reverse=True) for view in strided]
        return [
            torch.empty_permuted(view.shape, order, dtype=dtype, device=device)
            for view, order in zip(strided, slowest_first, strict=True)
        ]

    @property
    def lead(self) -> str:
        """The slowest axis of the file's layout."""
        return re.findall(r"\w+", self.pattern)[0]

    @property
    def _back(self) -> str:
        return " -> ".join(side.strip() for side in reversed(self.pattern.split("->")))


def _rearranged(tensor: Tensor, pattern: str, sizes: Mapping[str, int]) -> Tensor:
    left = re.findall(r"\w+", pattern.split("->")[0])
    return rearrange(tensor, pattern, **{axis: sizes[axis] for axis in left})


def places(rules: Iterable[Rule], shapes: Mapping[str, tuple[int, ...]], n_layers: int) -> list[Place]:
    """The rules at every layer where the model has what they speak of.

    Args:
        rules: Of a family.
        shapes: Of the model's parameters, by name.
        n_layers: The model's blocks.

    Raises:
        CheckpointError: A parameter has no rule.
    """
    found, without = [], set(shapes)
    for rule in rules:
        for layer in range(n_layers) if "{l}" in rule.theirs else [0]:
            ours = tuple(name.format(l=layer) for name in rule.ours)
            if not all(name in shapes for name in ours):
                continue
            shape = shapes[ours[0]] if rule.axes[0] != "part" else (len(ours), *shapes[ours[0]])
            sizes = dict(zip(rule.axes, shape, strict=True))
            found.append(Place(rule.theirs.format(l=layer), ours, rule.pattern, sizes, rule.memory))
            without.difference_update(ours)
    if without:
        raise CheckpointError(f"every parameter must have a place in the file's format, {min(without)!r} has none")
    return found


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How weights are read: their dtype, where they go, and whether the file is mapped instead (None: if it can be)."""

    dtype: torch.dtype
    device: torch.device
    mmap: bool | None = False


def read_into(model: nn.Module, wanted: Mapping[str, Place], weights: Mapping[str, Stored], reading: Reading) -> None:
    """Gives the model its weights: each tensor goes straight into its parameter's memory.

    Args:
        model: Its parameters may be on `meta`; they are replaced.
        wanted: Where each parameter lies, as `checked` gives it.
        weights: The stored tensors.
        reading: How.

    Raises:
        CheckpointError: A stored tensor is no float.
        ArgumentError: The file cannot be mapped as it is asked for.
    """
    for theirs, place in wanted.items():
        stored = weights[theirs]
        if not stored.dtype.is_floating_point or stored.dtype.itemsize < 2:
            raise CheckpointError(
                f"{stored.where}: tensor {theirs!r} must be float64, float32, float16 or bfloat16, got "
                f"{stored.dtype}; get a checkpoint that is not quantised"
            )
        for name, tensor in zip(place.ours, _tensors(place, stored, reading), strict=True):
            path, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(path), attribute, nn.Parameter(tensor))


def _tensors(place: Place, stored: Stored, reading: Reading) -> list[Tensor]:
    if reading.mmap is not False:
        fits = stored.dtype == reading.dtype and reading.device.type == "cpu" and place.memory is None
        mapped = stored.mapped() if fits else None
        if mapped is not None:
            return place.views(mapped)
        if reading.mmap and place.memory is None:
            raise ArgumentError(
                "mmap=True needs tensors that can be used as they lie in the file: on the CPU, in the file's dtype, "
                f"aligned, in safetensors; {place.theirs!r} of {stored.where} is {stored.dtype} where {reading.dtype} "
                f"on {reading.device} is asked for; leave mmap out"
            )
    if "part" not in place.sizes and place.memory is None:
        whole = torch.empty(stored.shape, dtype=reading.dtype, device=reading.device)
        _fill(whole, stored)
        return place.views(whole)
    targets = place.targets(reading.dtype, reading.device)
    _fill_apart(targets, stored, place)
    return targets


def _fill(whole: Tensor, stored: Stored) -> None:
    """Straight, or through the buffer where dtype or device differ."""
    if whole.dtype == stored.dtype and whole.device.type == "cpu":
        stored.read(whole)
        return
    flat = whole.view(-1)
    step = BUFFER // stored.dtype.itemsize
    buffer = torch.empty(min(step, flat.numel()), dtype=stored.dtype)
    for start in range(0, flat.numel(), step):
        piece = buffer[: flat.numel() - start]
        stored.read(piece, start)
        flat[start : start + step].copy_(piece)


def _fill_apart(targets: list[Tensor], stored: Stored, place: Place) -> None:
    """Takes a packed tensor apart, or puts it into another order, some rows of the file at a time."""
    lead, total = place.lead, place.sizes[place.lead]
    unit = torch.Size(stored.shape).numel() // total
    step = max(1, BUFFER // (unit * stored.dtype.itemsize))
    buffer = torch.empty(min(step, total) * unit, dtype=stored.dtype)
    axes = [axis for axis in place.sizes if axis != "part"]
    for start in range(0, total, step):
        count = min(step, total - start)
        piece = buffer[: count * unit]
        stored.read(piece, start * unit)
        views = place.views(piece.view(stored.shape[0] * count // total, *stored.shape[1:]), **{lead: count})
        if lead == "part":
            rooms = targets[start : start + count]
        else:
            rooms = [target.narrow(axes.index(lead), start, count) for target in targets]
        for room, view in zip(rooms, views, strict=True):
            room.copy_(view)


@dataclass(frozen=True, kw_only=True)
class Format:
    """The names and layouts of one kind of checkpoint."""

    rules: tuple[Rule, ...]
    prefix: str = ""
    """Of most names; files of a model without its head leave it out."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Stored tensors that are passed over, with the reason; `{l}` stands for any layer."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Stored tensors that repeat another where embeddings are tied, and which."""


def checked(
    form: Format,
    found: Sequence[Place],
    weights: Mapping[str, Stored],
    *,
    where: str,
    left_out: Iterable[str] = (),
) -> dict[str, Place]:
    """The places under the names that the file uses, if it holds just what it must.

    Args:
        form: The format of the file.
        found: What the model needs.
        weights: What is stored.
        where: The folder, for messages.
        left_out: What is stored for layers that the model does without.

    Raises:
        CheckpointError: A tensor is missing, of another shape, unexpected, or differs from what it must repeat.
    """
    bare = not any(name.startswith(form.prefix) for name in weights)

    def here(name: str) -> str:
        return name.removeprefix(form.prefix) if bare else name

    wanted = {here(place.theirs): place for place in found}
    _check_wanted(wanted, weights, where)
    copies = {here(name): here(original) for name, original in form.copies.items() if here(name) not in wanted}
    for name, original in copies.items():
        if name in weights and not _same(weights[name], weights[original]):
            raise CheckpointError(
                f"{weights[name].where}: tensor {name!r} must equal {original!r}, since the configuration ties them, "
                "and it does not; set tie_word_embeddings to false in config.json if the model has two matrices"
            )
    passed = re.compile("|".join(re.escape(here(name)).replace(r"\{l\}", r"\d+") for name in form.unread) or "(?!)")
    unknown = [name for name in weights if not (name in wanted or name in copies or passed.fullmatch(name))]
    unknown = sorted(set(unknown) - {here(name) for name in left_out})
    if unknown:
        raise CheckpointError(
            f"{weights[unknown[0]].where} must hold nothing but the weights of the model that config.json describes, "
            f"tensor {unknown[0]!r} {list(weights[unknown[0]].shape)} is unexpected{_more(unknown)}"
            f"{nearest(unknown[0], wanted)}"
        )
    return wanted


def _check_wanted(wanted: Mapping[str, Place], weights: Mapping[str, Stored], where: str) -> None:
    missing = [name for name in wanted if name not in weights]
    if missing:
        place = wanted[missing[0]]
        raise CheckpointError(
            f"{where} must hold tensor {missing[0]!r} {list(place.shape)}, for {', '.join(place.ours)}; it is missing"
            f"{_more(missing)}{nearest(missing[0], weights)}"
        )
    for name, place in wanted.items():
        if weights[name].shape != place.shape:
            raise CheckpointError(
                f"{weights[name].where}: tensor {name!r} must have shape {list(place.shape)}, for "
                f"{', '.join(place.ours)} as config.json describes the model, got {list(weights[name].shape)}"
            )


def _more(names: Sequence[str]) -> str:
    return f", and {len(names) - 1} more are" if len(names) > 1 else ""


def _same(one: Stored, other: Stored) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    total, step = torch.Size(one.shape).numel(), BUFFER // one.dtype.itemsize // 2
    for start in range(0, total, step):
        pieces = [torch.empty(min(step, total - start), dtype=one.dtype) for _ in range(2)]
        for stored, piece in zip((one, other), pieces, strict=True):
            stored.read(piece, start)
        if not torch.equal(*pieces):
            return False
    return True
