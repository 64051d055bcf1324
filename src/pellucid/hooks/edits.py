"""Edits as values: what takes the place of a part of an activation.

An edit given to a run is resolved first (one run of the model at most, for those whose values come from data) into one
plain edit for each hook point; applying that is a pure function. An edit is never changed after it was made.
"""

import copy
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.base.seeds import generator
from pellucid.hooks.names import short_name
from pellucid.hooks.run import Run
from pellucid.hooks.site import Site

PROMPTS = 64
"""That are run at once where a mean is taken over many."""


@runtime_checkable
class Runs(Protocol):
    """What an edit needs of a model: its points, and a way to run it."""

    @property
    def hook_names(self) -> Sequence[str]:
        """Full names of all hook points."""
        ...

    def run(self, tokens: Any, *, reads: Any = ()) -> Run:
        """Runs it."""
        ...


class Edit:
    """A change of one site: `Zero("z", layer=0, head=8)`, `Add(direction, Site("resid_post", layer=3))`.

    Args:
        site: A `Site`, or a site's name with its keywords; None for an edit that is placed later, by `at`.
        **where: `layer pos q_pos k_pos head kv_head neuron`, as for `Site`.

    Raises:
        ArgumentError: The site cannot be.
    """

    def __init__(self, site: Site | str | None = None, **where: Any) -> None:
        if where and not isinstance(site, str):
            raise ArgumentError(f"{', '.join(where)} must go with a site's name, got {site!r}; write them in the Site")
        self.site = Site(site, **where) if isinstance(site, str) else site

    def at(self, site: Site) -> "Edit":
        """The same edit elsewhere."""
        placed = copy.copy(self)
        placed.site = site
        return placed

    def resolve(self, model: Runs) -> dict[str, "Edit"]:
        """One edit for each hook point that the site lies at, with all values in it; runs the model at most once.

        Raises:
            ArgumentError: The edit has no site.
            UnknownNameError: The model has no such point.
        """
        site = self._placed()
        return {name: self.at(site.at_point(name)) for name in site.points(model.hook_names)}

    def apply(self, x: Tensor) -> Tensor:
        """The activation with the site's part changed; `x` itself stays as it is."""
        index = self._placed().index(x.shape)
        part = x[index]
        try:
            value = self.value(part, x).to(x).expand_as(part)
        except RuntimeError as error:
            raise ArgumentError(
                f"{self!r} must give values that fit {list(part.shape)} (axes {' '.join(self._placed().axes)}), "
                f"got: {error}; give each axis its size, or 1"
            ) from error
        out = x.clone()
        out[index] = value
        return out

    def value(self, part: Tensor, x: Tensor) -> Tensor:
        """What takes the part's place: any shape that broadcasts to it. `x` is the whole activation."""
        raise NotImplementedError

    def _placed(self) -> Site:
        if self.site is None:
            raise ArgumentError(f"{self!r} must have a site; name one, as in {type(self).__name__}(..., 'z', layer=0)")
        return self.site

    def __repr__(self) -> str:
        said = {k: list(v.shape) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in said.items())})"


class Zero(Edit):
    """Zeros."""

    def value(self, part: Tensor, x: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(part)


class Replace(Edit):
    """A tensor, or numbers, that broadcast to the site's part."""

    def __init__(self, tensor: Any, site: Site | str | None = None, **where: Any) -> None:
        super().__init__(site, **where)
        self.tensor = torch.as_tensor(tensor)

    def value(self, part: Tensor, x: Tensor) -> Tensor:
        """The tensor."""
        return self.tensor


class Add(Replace):
    """The part plus a tensor that broadcasts to it: a steering vector, for one."""

    def value(self, part: Tensor, x: Tensor) -> Tensor:
        """The part, and the tensor on top."""
        return part + self.tensor.to(part)


class Scale(Edit):
    """The part times a number."""

    def __init__(self, factor: float, site: Site | str | None = None, **where: Any) -> None:
        super().__init__(site, **where)
        self.factor = factor

    def value(self, part: Tensor, x: Tensor) -> Tensor:
        """The part times the factor."""
        return part * self.factor


class Shift(Edit):
    """Each position gets what stood `by` positions before it, in the same run and at the same point.

    The site's positions must all be at least `by`; none named means all of those.
    """

    def __init__(self, by: int, site: Site | str | None = None, **where: Any) -> None:
        super().__init__(site, **where)
        if by < 1:
            raise ArgumentError(f"by must be 1 or more positions, got {by}; a later position cannot be a source")
        self.by = by

    def apply(self, x: Tensor) -> Tensor:
        """The activation with the shifted values in the site's part."""
        site = self._placed()
        if site.axes[1] != "pos":
            raise ArgumentError(
                f"Shift needs an activation with a pos axis, got {short_name(site.name)!r}; choose another"
            )
        if site.pos is None and self.by < x.shape[1]:
            site = Site(site.name, pos=slice(self.by, None), head=site.head, kv_head=site.kv_head, neuron=site.neuron)
        index = site.index(x.shape)
        reached = torch.arange(x.shape[1])[index[1]]
        if int(reached.min()) < self.by:
            raise ArgumentError(
                f"Shift(by={self.by}) needs positions from {self.by} to {x.shape[1] - 1}, got {site.pos!r}; "
                "nothing stands that far before the others"
            )
        out = x.clone()
        out[index] = x.roll(self.by, dims=1)[index]
        return out


class Noise(Edit):
    """The part plus Gaussian noise of a standard deviation.

    The same for the same seed at the same point; each point has noise of its own.
    """

    def __init__(self, site: Site | str | None = None, *, std: float, seed: int = 0, **where: Any) -> None:
        super().__init__(site, **where)
        if not std >= 0:
            raise ArgumentError(f"std must be 0 or more, got {std}; it is a standard deviation")
        self.std = std
        self.seed = seed

    def value(self, part: Tensor, x: Tensor) -> Tensor:
        """The part, and noise on top."""
        own = sha256(f"{self.seed} {self._placed().name}".encode()).digest()[:8]
        drawn = generator(int.from_bytes(own, "big", signed=True))
        noise = torch.randn(part.shape, generator=drawn, dtype=torch.float32)
        return part + self.std * noise.to(part)


class Mean(Edit):
    """The activation's mean over a set of prompts.

    Args:
        site: As for every edit.
        over: What `model.run` takes: tokens `[batch pos]`, or text.
        per_position: One mean for each position (`over` must then be as long as the run), or one for all of them.
        **where: As for every edit.
    """

    def __init__(self, site: Site | str | None = None, *, over: Any, per_position: bool = False, **where: Any) -> None:
        super().__init__(site, **where)
        self.over = over
        self.per_position = per_position

    def resolve(self, model: Runs) -> dict[str, Edit]:
        """A `Replace` for each point; the prompts are run once, some at a time, and only sums of them are kept."""
        sites = _sites(self, model)
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        for some in _batches(self.over):
            with torch.no_grad():
                done = model.run(some, reads=list(sites))
            for name, site in sites.items():
                new = self._summed(site, done.cache[name], done.mask)
                sums[name] = _added(sums[name], new, site) if name in sums else new
        return {name: _Donated(sums[name][0] / sums[name][1], site) for name, site in sites.items()}

    def _summed(self, site: Site, donor: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The sum over some prompts, and how many numbers are in it."""
        if not self.per_position and "pos" not in site.axes:
            raise ArgumentError(
                f"Mean of {short_name(site.name)!r} must be per position, since its positions are its content; "
                "pass per_position=True"
            )
        if mask is not None and "pos" not in site.axes:
            raise ArgumentError(f"Mean of {short_name(site.name)!r} needs prompts of one length, got padded ones")
        together = [0] if self.per_position else [0, 1]
        real = torch.ones(donor.shape[:2], device=donor.device) if mask is None else mask
        real = real.view(*real.shape, *[1] * (donor.ndim - 2)).to(torch.promote_types(donor.dtype, torch.float32))
        if "pos" not in site.axes:
            real = real[:, :1]
        return (donor * real).sum(together, keepdim=True), real.sum(together, keepdim=True)


class Resample(Edit):
    """Each prompt gets the activation of another one, drawn from a set of prompts as long as the run.

    Args:
        site: As for every edit.
        source: What `model.run` takes: tokens `[batch pos]`, or text.
        seed: Of the draw.
        **where: As for every edit.
    """

    def __init__(self, site: Site | str | None = None, *, source: Any, seed: int = 0, **where: Any) -> None:
        super().__init__(site, **where)
        self.source = source
        self.seed = seed

    def resolve(self, model: Runs) -> dict[str, Edit]:
        """An edit with its donors for each point; one run over the source."""
        return _from_run(self, model, self.source, self._drawn)

    def _drawn(self, site: Site, donor: Tensor, mask: Tensor | None) -> Edit:
        if mask is not None:
            raise ArgumentError(
                "the prompts that Resample draws from must be of one length, got padded ones; group them"
            )
        return _Drawn(donor, site, self.seed)


class _Donated(Replace):
    """Values of the whole activation, of which the site's part is taken; an axis of size 1 serves every index."""

    def apply(self, x: Tensor) -> Tensor:
        site = self._placed()
        for axis, found, wanted in zip(site.axes, self.tensor.shape, x.shape, strict=True):
            if found not in (1, wanted):
                raise ArgumentError(
                    f"the prompts that give values for {site.name} must have {axis} {wanted} as the run, got {found}; "
                    "use prompts of the same length, or a mean over positions"
                )
        index = site.index(x.shape)
        out = x.clone()
        out[index] = self.tensor.to(x).expand_as(x)[index]
        return out


class _Drawn(Edit):
    """Rows of a donor activation, drawn for each prompt of the run."""

    def __init__(self, donor: Tensor, site: Site, seed: int) -> None:
        super().__init__(site)
        self.donor = donor
        self.seed = seed

    def apply(self, x: Tensor) -> Tensor:
        rows = torch.randint(len(self.donor), (len(x),), generator=generator(self.seed))
        return _Donated(self.donor[rows.to(self.donor.device)], self._placed()).apply(x)


def _sites(edit: Edit, model: Runs) -> dict[str, Site]:
    return {name: placed._placed() for name, placed in Edit.resolve(edit, model).items()}


def _batches(tokens: Any) -> Iterator[Any]:
    """What `model.run` takes, in parts of some prompts."""
    alone = isinstance(tokens, str) or not len(tokens) or (isinstance(tokens, Tensor) and tokens.ndim < 2)
    if alone or (isinstance(tokens, Sequence) and isinstance(tokens[0], int)):
        yield tokens
        return
    for first in range(0, len(tokens), PROMPTS):
        yield tokens[first : first + PROMPTS]


def _added(sums: tuple[Tensor, Tensor], more: tuple[Tensor, Tensor], site: Site) -> tuple[Tensor, Tensor]:
    """Two sums as one."""
    if sums[0].shape != more[0].shape:
        raise ArgumentError(
            f"a mean of {short_name(site.name)!r} per position needs prompts of one length, got "
            f"{list(sums[0].shape[1:])} and {list(more[0].shape[1:])}; group them"
        )
    return sums[0] + more[0], sums[1] + more[1]


def _from_run(edit: Edit, model: Runs, tokens: Any, make: Any) -> dict[str, Edit]:
    sites = _sites(edit, model)
    with torch.no_grad():
        done = model.run(tokens, reads=list(sites))
    return {name: make(site, done.cache[name], done.mask) for name, site in sites.items()}
