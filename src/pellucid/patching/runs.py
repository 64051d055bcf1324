"""The runs that a sweep starts from: what the unpatched run of each prompt left, and what patches put in its place.

A prompt is taken by itself, at its own length: nothing is padded any more.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.hooks.site import Site
from pellucid.model.attention import pattern_of
from pellucid.patching.grid import axes_name
from pellucid.patching.sites import DERIVED, layers_of, point, taken


@runtime_checkable
class Values(Protocol):
    """What patches put in: the activation of another run, or an edit of this one's."""

    def value(self, run: "PromptRun", site: str, layer: int | None) -> Tensor:
        """The whole activation `[pos …]` (`[head q_pos k_pos]` of scores and patterns) for one prompt."""
        ...


class PromptRun:
    """One prompt's unpatched run.

    Args:
        model: Of which.
        index: Of the prompt.
        kept: Activations by full name, `[pos …]`.
        wanted: The positions that the metric looks at, rising.
        values: What patches put in.
    """

    def __init__(
        self,
        model: HookedTransformer,
        index: int,
        kept: Mapping[str, Tensor],
        wanted: Sequence[int],
        values: Values | None = None,
    ) -> None:
        self.model, self.index, self.kept, self.wanted, self.values = model, index, kept, list(wanted), values
        self._layer: int | None = None
        self._made: dict[tuple[str, str, int | None], Any] = {}

    @property
    def length(self) -> int:
        """Tokens."""
        return len(next(iter(self.kept.values())))

    @property
    def end(self) -> int:
        """The last position that counts."""
        return self.wanted[-1]

    def old(self, site: str, layer: int | None) -> Tensor:
        """The unpatched activation, `[pos …]`, or `[head q_pos k_pos]` for scores and patterns."""
        if site in DERIVED:
            return self.remembered(("old", site, layer), lambda: self._derived(site, layer))
        return self.kept[point(site, layer)]

    def taken(self, name: str, layer: int | None) -> Tensor:
        """Queries, keys or values as attention takes them, `[pos heads d_head]`."""
        return self.old(taken(name, rotary=self.model.rotary is not None), layer)

    def new(self, site: str, layer: int | None) -> Tensor:
        """What a patch puts there."""
        values = self.values
        if values is None:
            raise ArgumentError("a run without values to put in cannot be patched, got none; give them")
        return self.remembered(("new", site, layer), lambda: values.value(self, site, layer))

    def visible(self, rows: Sequence[int]) -> Bool[Tensor, "1 1 q_pos k_pos"]:
        """Which keys, up to the last position that counts, the queries of some rows see."""
        places = torch.arange(self.length, device=self.model.device)
        return (places[: self.end + 1] <= places[span(rows)][:, None])[None, None]

    def remembered(self, key: tuple[str, str, int | None], make: Callable[[], Any]) -> Any:
        """What was made for this key, while the entries of one layer come one after the other."""
        if key[-1] != self._layer:
            self._layer, self._made = key[-1], {}
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _derived(self, site: str, layer: int | None) -> Tensor:
        attn = self.model.blocks[layer or 0].attn
        if site == "result":
            return torch.einsum("phe,hem->phm", self.old("z", layer), attn.W_O)
        if site == "pattern":
            return pattern_of(self.old("attn_scores", layer))
        places = torch.arange(self.length, device=self.model.device)
        visible = (places <= places[:, None])[None, None]
        return attn.scores(self.taken("q", layer)[None], self.taken("k", layer)[None], visible)[0]


def span(indices: Sequence[int] | np.ndarray) -> slice | list[int]:
    """The same indices, as a slice where they follow each other: that copies nothing, and waits for no device.

    Example:
        >>> span([2, 3, 4]), span([2, 4])
        (slice(2, 5, None), [2, 4])
    """
    listed = [int(i) for i in indices]
    follow = listed and listed == list(range(listed[0], listed[0] + len(listed)))
    return slice(listed[0], listed[-1] + 1) if follow else listed


class OtherRun:
    """Values of another run at the same place."""

    def __init__(self, runs: Mapping[int, PromptRun]) -> None:
        self.runs = runs

    def value(self, run: PromptRun, site: str, layer: int | None) -> Tensor:
        """What the other run of the same prompt has there."""
        return self.runs[run.index].old(site, layer)


class Edited:
    """An edit of the run's own values, worked out prompt by prompt: prompt i draws with the edit's seed + i.

    Args:
        model: Whose runs give the values of means and resampled activations.
        edit: Without a site.
        sites: Where it may be asked for.
    """

    def __init__(self, model: HookedTransformer, edit: Edit, sites: Sequence[str]) -> None:
        names = dict.fromkeys(axes_name(site) for site in sites)
        self.edits = {full: placed for name in names for full, placed in edit.at(Site(name)).resolve(model).items()}
        self.model = model
        for site in sites:
            for layer in layers_of(site, model.hook_names):
                full = point(site, layer)
                self.edits[full] = self.edits[full].at(Site(full))

    def value(self, run: PromptRun, site: str, layer: int | None) -> Tensor:
        """The edited activation."""
        return self.applied(run.old(site, layer)[None], site, layer, run.index)[0]

    def applied(self, x: Tensor, site: str, layer: int | None, prompt: int) -> Tensor:
        """The edited activation `[1 …]`, of a prompt whose number is told."""
        return for_prompt(self.edits[point(site, layer)], prompt).apply(x)


def for_prompt(edit: Edit, prompt: int) -> Edit:
    """The same edit, drawing numbers of its own for each prompt."""
    seed = getattr(edit, "seed", None)
    if seed is None or prompt == 0:
        return edit
    own = copy.copy(edit)
    own.seed = seed + prompt  # pyright: ignore[reportAttributeAccessIssue] (those that draw have one)
    return own


class AtPositions(Edit):
    """An edit of some positions of each prompt, worked out prompt by prompt.

    Args:
        edit: With a site whose `pos` is not told.
        reached: True at the positions that are edited.
        prompts: The number of each row's prompt.
        lengths: Tokens of each row; what is behind them is padding.
    """

    def __init__(
        self, edit: Edit, reached: Bool[Tensor, "batch pos"], prompts: Sequence[int], lengths: Sequence[int]
    ) -> None:
        super().__init__(edit.site)
        self.edit, self.reached, self.prompts, self.lengths = edit, reached, prompts, lengths

    def rows(self, here: slice) -> "AtPositions":
        """The edit of some rows."""
        return AtPositions(self.edit, self.reached[here], self.prompts[here], self.lengths[here])

    def resolve(self, model: Any) -> dict[str, Edit]:
        """One for each point."""
        found = {}
        for name, placed in self.edit.resolve(model).items():
            found[name] = copy.copy(self)
            found[name].edit = placed
        return found

    def apply(self, x: Tensor) -> Tensor:
        """The activation with those positions edited."""
        edited = x.clone()
        for row, prompt, length in zip(edited, self.prompts, self.lengths, strict=True):
            row[:length] = for_prompt(self.edit, prompt).apply(row[None, :length])[0]
        reached = self.reached[:, : x.shape[1]].to(x.device)
        return torch.where(reached.view(*reached.shape, *[1] * (x.ndim - 2)), edited, x)


@dataclass(frozen=True, eq=False)
class Side:
    """One of a prompt's two runs."""

    tokens: Int[Tensor, "batch pos"]
    edit: Edit | None = None
    """Made in it, at the positions that are reached."""
    reached: Bool[Tensor, "batch pos"] | None = None
    lengths: Int[Tensor, " batch"] | None = None

    def of(self, prompts: Sequence[int]) -> tuple[Int[Tensor, "batch pos"], AtPositions | None]:
        """The tokens of some prompts, and what is edited in their runs."""
        if self.edit is None or self.reached is None or self.lengths is None:
            return self.tokens[prompts], None
        lengths = self.lengths[prompts].tolist()
        return self.tokens[prompts], AtPositions(self.edit, self.reached[prompts], prompts, lengths)


def read(
    model: HookedTransformer,
    tokens: Int[Tensor, "batch pos"],
    names: Sequence[str],
    lengths: Sequence[int],
    *,
    at_once: int,
    edit: AtPositions | None = None,
) -> list[dict[str, Float[Tensor, "..."]]]:
    """What some prompts' runs leave, each cut to its own length.

    Args:
        model: Of which.
        tokens: Padded on the right.
        names: Full names of what is kept.
        lengths: Tokens of each prompt.
        at_once: Tokens that go through the model together; one prompt always does.
        edit: Made in these runs.
    """
    kept = []
    whole = any(name.startswith("ln_final") for name in names)
    until: dict[str, Any] = {"return_type": None} if whole else {"stop_at_layer": model.config.n_layers}
    size = max(1, at_once // max(1, tokens.shape[1]))
    for first in range(0, len(tokens), size):
        here = slice(first, first + size)
        edits = [] if edit is None else [edit.rows(here)]
        done = model.run(
            tokens[here].to(model.device),
            reads=list(names),
            edits=edits,
            padding_side="right",
            **until,
        )
        for row, length in enumerate(lengths[here]):
            kept.append({name: x[row, :length] for name, x in done.cache.items()})
    return kept
