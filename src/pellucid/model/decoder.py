"""The decoder: token ids to logits, from any layer to any layer, with or without a past.

Continuing a run from a layer, from a position, or from keys and values of another run is one mechanism: generation
uses it, and so do patching sweeps.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooks.edits import Edit
from pellucid.hooks.names import Filter
from pellucid.hooks.point import HookPoint, Part, call
from pellucid.hooks.run import LiveRun, Run
from pellucid.model.past import KeyValueCache, make_span
from pellucid.model.positional import Added, Placing, Shortformer
from pellucid.model.transformer import Stack, check_tokens

Positions: TypeAlias = int | Sequence[int] | Int[Tensor, "batch k"]


class Decoder(Stack):
    """A decoder-only transformer with hook points.

    Args:
        config: What it looks like.
        seed: Of the fresh weights; None draws from torch's own random state.

    Raises:
        ConfigError: The configuration is of another architecture.
    """

    architecture = "decoder"

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"] | Float[Tensor, "batch pos d_model"],
        *,
        start_at_layer: int | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
        positions: Int[Tensor, "#batch pos"] | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KeyValueCache | None = None,
        logits_at: Positions | None = None,
        unembed: bool = True,
        run: LiveRun | None = None,
    ) -> Float[Tensor, "batch rows d_out"]:
        """One forward pass.

        Args:
            tokens: Token ids; with `start_at_layer`, the residual stream there.
            start_at_layer: First block that runs; negative counts from the last.
            attention_mask: True (or 1) at real tokens; padding is neither attended to nor counted as a position.
            positions: Explicit positions of the rows, instead of counting.
            stop_at_layer: First block that does not run; the stream there is given back.
            past_kv_cache: Keys and values that these rows continue; a pass through all layers appends to it.
            logits_at: Positions whose logits are wanted, for all prompts alike, or `[batch k]`.
            unembed: False ends at the final norm, without logits.
            run: Who listens.

        Returns:
            Logits `[batch pos d_vocab]`, or `[batch k d_vocab]` with `logits_at`; the residual stream
            `[batch pos d_model]` with `stop_at_layer`.

        Raises:
            ArgumentError: An argument does not fit the model or the others.
        """
        first, last = self._layers(start_at_layer, stop_at_layer)
        started = start_at_layer is not None
        self._check_input(tokens, started)
        if past_kv_cache is not None and len(past_kv_cache.entries) != self.config.n_layers:
            raise ArgumentError(
                f"the past must be of a model of n_layers={self.config.n_layers}, got {len(past_kv_cache.entries)}; "
                "make it by KeyValueCache.init_cache(model.cfg)"
            )
        span = make_span(
            *tokens.shape[:2],
            n_ctx=self.config.n_ctx,
            device=tokens.device,
            mask=attention_mask,
            past=past_kv_cache,
            positions=positions,
        )
        if run is not None and span.keys_mask is not None:
            run.mask = span.keys_mask[:, span.n_past :]
        x = tokens if started else self.embedded(tokens, span, run)
        self.place(x, span, run)
        for block in self.blocks[first:last]:
            x = call(block, x, span, run=run)
        if stop_at_layer is not None:
            return x
        if logits_at is not None:
            x = _rows(x, logits_at)
        x = call(self.ln_final, x, run=run)
        x = call(self.unembed, x, run=run) if unembed else x
        if not started:
            span.keep()
        return x

    def run(
        self,
        tokens: Any,
        *,
        edits: Edit | Sequence[Edit] = (),
        reads: Filter = (),
        past: KeyValueCache | None = None,
        attention: str = "auto",
        **more: Any,
    ) -> Run:
        """A run as a value: with edits made and activations read, leaving nothing behind.

        Args:
            tokens: `[batch pos]`; with `start_at_layer`, the residual stream there.
            edits: One, or several, applied in their order.
            reads: Which activations to give back: names, short names (every layer), shorthands, a callable on names, or
                None for all.
            past: Keys and values that these rows continue; it stays as it is (a call of the model lets it grow).
            attention: `"auto"` takes the fused forms wherever nobody listens inside; `"explicit"` never does, so that a
                value does not depend, in its last digits, on what else is read, and derivatives of any order exist.
            **more: `start_at_layer stop_at_layer logits_at attention_mask positions`, as for a call of the model.

        Returns:
            Logits (the stream where it stopped early), and the activations read, by full name, detached.

        Raises:
            UnknownNameError: An edit or a read means no hook point.
        """
        held = None if past is None else past.view()
        return super().run(tokens, edits=edits, reads=reads, attention=attention, past_kv_cache=held, **more)

    def placing_at(self, positions: Int[Tensor, " row"], like: Tensor, layer: int) -> Placing | None:
        """How a layer's queries and keys at some positions come to know where they stand; None: the stream tells."""
        if isinstance(self.config.positions, Shortformer):
            found = Added(self.pos_embed.W_pos[positions], self.config.positions.layers)
            return found if found.reaches(layer) else None
        return None if self.rotary is None else self.rotary.at(positions, self.config.n_ctx, like)

    @property
    def in_pieces(self) -> bool:
        """Whether blocks in pieces, `ln_final` and `unembed` are all there is, and no standing hook waits anywhere."""
        ends = [self.ln_final, self.unembed]
        points = [point for end in ends for name, point in end.named_children() if name.startswith("hook_")]
        points += [self.hook_embed] + ([self.hook_pos_embed] if hasattr(self, "pos_embed") else [])
        ours = all(isinstance(part, Part) for part in ends) and all(isinstance(p, HookPoint) for p in points)
        return ours and not self.board and all(getattr(block, "in_pieces", False) for block in self.blocks)

    def _layers(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n = self.config.n_layers
        first, last = 0 if start is None else start, n if stop is None else stop
        first, last = (layer + n if layer < 0 else layer for layer in (first, last))
        if not 0 <= first <= last <= n:
            raise ArgumentError(f"0 ≤ start_at_layer ≤ stop_at_layer ≤ n_layers={n} must hold, got {start} and {stop}")
        return first, last

    def _check_input(self, tokens: Tensor, started: bool) -> None:
        if started:
            if tokens.ndim != 3 or tokens.shape[-1] != self.config.d_model:
                raise ArgumentError(
                    f"with start_at_layer the input must be a residual stream [batch pos {self.config.d_model}], "
                    f"got {list(tokens.shape)}"
                )
        else:
            check_tokens(tokens, otherwise="; give the residual stream together with start_at_layer")


def _rows(x: Tensor, positions: Positions) -> Tensor:
    """`[batch k d_model]`: the stream at some positions."""
    if isinstance(positions, Tensor):
        if positions.ndim != 2 or len(positions) != len(x):
            raise ArgumentError(
                f"logits_at must be a position, a list of them, or a tensor [batch k] with batch {len(x)}, "
                f"got {list(positions.shape)}"
            )
        if positions.device.type == "cpu":  # elsewhere, looking would wait for the device
            _check_positions(positions.flatten().tolist(), x.shape[1])
        counted = torch.where(positions < 0, positions + x.shape[1], positions).to(x.device)
        return x.gather(1, counted[..., None].expand(-1, -1, x.shape[2]))
    chosen = [positions] if isinstance(positions, int) else list(positions)
    _check_positions(chosen, x.shape[1])
    return x[:, chosen]


def _check_positions(positions: Sequence[int], n: int) -> None:
    for p in positions:
        if not -n <= p < n:
            raise ArgumentError(f"logits_at must lie in 0..{n - 1}, got {p}; choose a position of the prompt")
