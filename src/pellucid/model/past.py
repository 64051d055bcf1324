"""Keys and values that earlier positions left, for a run that continues them, and where the rows of a run stand.

`KeyValueCache` is what a caller keeps from run to run; `Span` is what one forward pass knows about its rows.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.model.positional import Placing


class KeyValueCache:
    """Keys (after rotation) and values of earlier positions, layer by layer.

    A run that is given one attends to what it holds, and appends its own rows when it ends well; `freeze()` stops that.
    """

    def __init__(self, n_layers: int) -> None:
        self.entries: list[tuple[Tensor, Tensor] | None] = [None] * n_layers
        """For each layer (keys, values), `[batch k_pos kv_head d_head]`; a batch of 1 serves every prompt."""
        self.mask: Bool[Tensor, "batch k_pos"] | None = None
        """True where a position holds a real token; None: everywhere."""
        self.frozen = False
        self.length = 0
        """Positions held."""

    @classmethod
    def init_cache(cls, cfg: Any, device: Any = None, batch_size: int = 1) -> "KeyValueCache":
        """An empty one; `device` and `batch_size` follow from the first run."""
        return cls(cfg.n_layers)

    def __len__(self) -> int:
        """Number of positions held."""
        return self.length

    def freeze(self) -> None:
        """Later runs attend to it and leave it as it is."""
        self.frozen = True

    def unfreeze(self) -> None:
        """Later runs append to it again."""
        self.frozen = False

    def view(self) -> "KeyValueCache":
        """A frozen cache that holds the same: runs attend to it, and neither grows."""
        other = copy.copy(self)
        other.entries = list(self.entries)
        other.freeze()
        return other

    def counts(self) -> int | Int[Tensor, " batch"]:
        """Real tokens held for each prompt: the position of the next one."""
        return len(self) if self.mask is None else self.mask.sum(-1)


@dataclass
class Span:
    """Where the rows of one forward pass stand, what they may see, and the past that they continue."""

    n_rows: int
    positions: Int[Tensor, "batch pos"] | None
    """None where row i stands at `first + i` in every prompt."""
    first: int
    keys_mask: Bool[Tensor, "batch k_pos"] | None
    """True where a key, past ones included, is a real token; None: everywhere."""
    past: KeyValueCache | None
    device: torch.device
    causal: bool = True
    """Whether a row sees only what comes before it."""
    n_source: int | None = None
    """Keys of another sequence, which all rows see; None: the keys are those of the rows themselves."""
    placing: Placing | None = None
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _visible: Bool[Tensor, "#batch 1 q_pos k_pos"] | None = None

    def placing_in(self, layer: int) -> Placing | None:
        """How queries and keys of a layer come to know where they stand; None where only the stream tells."""
        return self.placing if self.placing is not None and self.placing.reaches(layer) else None

    @property
    def n_past(self) -> int:
        """Number of positions of the past."""
        return 0 if self.past is None else len(self.past)

    @property
    def plain(self) -> bool:
        """Whether a causal mask from the first position on is all there is."""
        return self.causal and self.keys_mask is None and self.n_past == 0

    @property
    def visible(self) -> Bool[Tensor, "#batch 1 q_pos k_pos"]:
        """True where a query may attend to a key; made once, for all layers."""
        if self._visible is None and not self.causal:
            n_keys = self.n_rows if self.n_source is None else self.n_source
            keys_mask = self.keys_mask
            if keys_mask is None:
                keys_mask = torch.ones(1, n_keys, dtype=torch.bool, device=self.device)
            self._visible = keys_mask[:, None, None].expand(-1, 1, self.n_rows, -1)
        if self._visible is None:  # a cached_property takes a lock, which torch.compile does not
            keys = torch.arange(self.n_past + self.n_rows, device=self.device)
            causal = (keys <= keys[self.n_past :, None])[None, None]
            self._visible = causal if self.keys_mask is None else causal & self.keys_mask[:, None, None]
        return self._visible

    @property
    def fused_mask(self) -> Bool[Tensor, "#batch 1 q_pos k_pos"] | None:
        """The mask that the fused attention needs: none where the causal flag says it all, or every key is seen."""
        all_seen = self.keys_mask is None and (self.n_rows == 1 or not self.causal)
        return None if self.plain or all_seen else self.visible

    def extended(
        self, layer: int, k: Float[Tensor, "batch pos kv_head d_head"], v: Float[Tensor, "batch pos kv_head d_head"]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer with those of the past before them."""
        if self.past is None:
            return k, v
        entry = self.past.entries[layer]
        if entry is not None:
            k, v = (
                torch.cat([old.expand(len(new), *old.shape[1:]), new], dim=1)
                for old, new in zip(entry, (k, v), strict=True)
            )
        self.kept.append((k, v))
        return k, v

    def keep(self) -> None:
        """Hands the rows of a whole pass to the past; called when the pass has ended well."""
        if self.past is None or self.past.frozen:
            return
        if len(self.kept) != len(self.past.entries):
            raise ArgumentError(
                f"a past needs keys and values of all {len(self.past.entries)} layers, got those of {len(self.kept)}; "
                "where another module stands in attention's place, do without (use_past_kv_cache=False)"
            )
        self.past.length = self.n_past + self.n_rows
        self.past.entries = list(self.kept)
        self.past.mask = self.keys_mask


def make_span(
    batch: int,
    n_rows: int,
    *,
    n_ctx: int,
    device: torch.device,
    mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
    past: KeyValueCache | None = None,
    positions: Int[Tensor, "#batch pos"] | None = None,
    causal: bool = True,
) -> Span:
    """Where rows stand that continue a past.

    Args:
        batch: Prompts.
        n_rows: New positions of each.
        n_ctx: The longest that the model can take.
        device: Of the run.
        mask: True (or 1) at real tokens of the new rows; padding is not counted as a position.
        past: What they continue.
        positions: Explicit positions, instead of counting.
        causal: Whether a row sees only what comes before it.

    Raises:
        ArgumentError: There are no rows, they do not fit the context, or the mask does not fit them.
    """
    if n_rows == 0:
        raise ArgumentError("a prompt must have at least one token, got none; put BOS in front, or give some text")
    n_past = 0 if past is None else len(past)
    if past is not None:
        _check_batch(past, batch)
    if mask is not None and not isinstance(mask, Tensor):
        raise ArgumentError(f"the attention mask must be a tensor [batch pos], got {mask!r}; wrap it in torch.tensor()")
    if mask is not None and tuple(mask.shape) != (batch, n_rows):
        raise ArgumentError(
            f"the attention mask must be [batch pos] of the tokens given, {[batch, n_rows]}, got {list(mask.shape)}"
            f"{'' if past is None else '; the past keeps its own'}"
        )
    old = None if past is None else past.mask
    mask = None if mask is None else mask.to(device=device, dtype=torch.bool)
    if mask is not None and old is None and mask.all():
        mask = None
    keys_mask = None
    if mask is not None or old is not None:
        held = torch.ones(batch, n_past, dtype=torch.bool, device=device) if old is None else old.expand(batch, -1)
        new = torch.ones(batch, n_rows, dtype=torch.bool, device=device) if mask is None else mask
        keys_mask = torch.cat([held, new], dim=1)
    if positions is None and keys_mask is not None:
        positions = (keys_mask.long().cumsum(-1) - 1).clamp(min=0)[:, n_past:]
    elif positions is not None:
        _check_positions(positions, batch, n_rows)
        positions = positions.to(device)
    last = n_past + n_rows if positions is None else 1 + int(positions.max()) if positions.numel() else 0
    if last > n_ctx:
        raise ArgumentError(
            f"a prompt must have at most n_ctx={n_ctx} tokens, got {last}; shorten it (to_tokens truncates by default)"
        )
    return Span(n_rows, positions, n_past, keys_mask, past, device, causal)


def cross_span(n_rows: int, source: Span) -> Span:
    """Where rows stand that attend to all of another sequence.

    Args:
        n_rows: How many.
        source: Where the rows of the other sequence stand.
    """
    return Span(n_rows, None, 0, source.keys_mask, None, source.device, causal=False, n_source=source.n_rows)


def _check_positions(positions: Tensor, batch: int, n_rows: int) -> None:
    if positions.shape not in ((1, n_rows), (batch, n_rows)):
        raise ArgumentError(
            f"positions must be [batch pos] of the tokens given, {[batch, n_rows]}, or one row for all, "
            f"got {list(positions.shape)}"
        )
    if positions.numel() and int(positions.min()) < 0:
        raise ArgumentError(f"positions must be 0 or more, got {int(positions.min())}; the first token stands at 0")


def _check_batch(past: KeyValueCache, batch: int) -> None:
    held = next((len(entry[0]) for entry in past.entries if entry is not None), 1)
    if held not in (1, batch):
        raise ArgumentError(
            f"the past must hold 1 prompt or as many as are given, {batch}, got {held}; give a past of its own"
        )
