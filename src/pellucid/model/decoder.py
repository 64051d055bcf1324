"""The decoder: token ids to logits, from any layer to any layer, with or without a past.

Continuing a run from a layer, from a position, or from keys and values of another run is one mechanism: generation
uses it, and so do patching sweeps.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.base.errors import ArgumentError, CheckpointError, TokenError
from pellucid.hooks.edits import Edit
from pellucid.hooks.names import Filter, select
from pellucid.hooks.point import HookPoint, Part, at, call
from pellucid.hooks.root import HookedRoot
from pellucid.hooks.run import LiveRun, Run
from pellucid.model.attention import Attention
from pellucid.model.block import Block
from pellucid.model.config import Config
from pellucid.model.embed import Embed, TiedUnembed, Unembed
from pellucid.model.norms import make_norm
from pellucid.model.past import KeyValueCache, Span, make_span
from pellucid.model.positional import Learned, PosEmbed, Rotary, RotaryTable, Rotation
from pellucid.model.state import from_2_18
from pellucid.model.weights import Weights

Positions: TypeAlias = int | Sequence[int] | Int[Tensor, "batch k"]


class Decoder(HookedRoot, Weights):
    """A decoder-only transformer with hook points.

    Args:
        config: What it looks like.
        seed: Of the fresh weights; None draws from torch's own random state.
    """

    def __init__(self, config: Config, *, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed = Embed(config.d_vocab, config.d_model)
        self.hook_embed = HookPoint()
        if isinstance(config.positions, Learned):
            self.pos_embed = PosEmbed(config.n_ctx, config.d_model)
            self.hook_pos_embed = HookPoint()
        self.rotary = None
        if isinstance(config.positions, Rotary):
            self.rotary = RotaryTable(config.attention.d_head, config.positions)
        blocks = nn.ModuleList([Block(config, layer) for layer in range(config.n_layers)])
        self.blocks = cast(Sequence[Block], blocks)
        self.ln_final = make_norm(config.d_model, config.norm)
        if config.tied:
            self.unembed: Unembed = TiedUnembed(self.embed, bias=config.unembed_bias)
        else:
            self.unembed = Unembed(config.d_model, config.vocab_out, bias=config.unembed_bias)
        self.setup()
        if not self.embed.W_E.is_meta:
            self.draw_weights(seed)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

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
        if self.rotary is not None:
            span.rotation = self._rotation(self.rotary, x, span)
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
        if attention not in ("auto", "explicit"):
            raise ArgumentError(f"attention must be 'auto' or 'explicit', got {attention!r}")
        live = self.live_run(explicit=attention == "explicit")
        for edit in [edits] if isinstance(edits, Edit) else edits:
            for name, placed in edit.resolve(self).items():
                live.add_edit(name, placed.apply)
        cache: dict[str, Tensor] = {}
        nothing = not isinstance(reads, str) and isinstance(reads, Sequence) and not reads
        for name in [] if nothing else select(self.hook_names, reads):
            live.add_reader(name, lambda x, point: cache.__setitem__(point.name, x.detach()))
        out = self(tokens, past_kv_cache=None if past is None else past.view(), run=live, **more)
        return Run(out, cache, live.mask)

    def embedded(self, tokens: Tensor, span: Span, run: LiveRun | None = None) -> Float[Tensor, "batch pos d_model"]:
        """The stream before the first block."""
        try:
            x = call(self.embed, tokens, run=run)
        except IndexError as error:
            raise TokenError(
                f"token ids must lie in 0..{self.config.d_vocab - 1}, got {int(tokens.min())}..{int(tokens.max())}; "
                "use the model's own tokenizer"
            ) from error
        x = at(self.hook_embed, x, run)
        if not isinstance(self.config.positions, Learned):
            return x
        if span.positions is not None:
            return x + at(self.hook_pos_embed, self.pos_embed(span.positions).expand_as(x), run)
        placed = self.pos_embed.between(span.first, span.first + span.n_rows).expand_as(x)
        if run is not None:
            placed = placed.clone()  # what a run shows must not be the weight itself
        return x + at(self.hook_pos_embed, placed, run)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes weights by their names, those of TransformerLens 2.18 included (see `model/state.py`).

        A tied unembedding becomes one of its own where the state has another `W_U`, once all else has been taken.
        """
        ours = from_2_18(state_dict, dict(self.named_parameters()), self.unembed)
        own = ours.pop("unembed.W_U", None) if isinstance(self.unembed, TiedUnembed) else None
        if own is not None and own.shape != self.W_U.shape:
            raise CheckpointError(
                f"unembed.W_U must be {list(self.W_U.shape)}, got {list(own.shape)}; load weights of the same model"
            )
        result = super().load_state_dict(ours, strict, assign)
        if own is not None and isinstance(self.unembed, TiedUnembed):
            with torch.no_grad():
                self.unembed.load(own, assign=assign)
        for module in self.modules():
            if isinstance(module, Attention):
                module.lay_out()
        return result

    def setup(self) -> None:
        """Reads the module tree anew, after a module was put in or taken out."""
        super().setup()
        if isinstance(self.unembed, TiedUnembed):
            self.unembed._embed = (self.embed,)

    def draw_weights(self, seed: int | None = None) -> None:
        """Draws every weight matrix anew from a normal distribution; biases become zero."""
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.rsplit(".", 1)[-1].startswith("W_"):
                    parameter.normal_(std=self.config.deviation, generator=generator)
                elif name.rsplit(".", 1)[-1].startswith("b"):
                    parameter.zero_()

    def rotation_at(self, positions: Int[Tensor, " row"], like: Tensor) -> Rotation | None:
        """(cos, sin) `[row 1 dim]` by which queries and keys at some positions are turned; None without rotary ones."""
        return None if self.rotary is None else self.rotary.at(positions, self.config.n_ctx, like)

    @property
    def in_pieces(self) -> bool:
        """Whether blocks in pieces, `ln_final` and `unembed` are all there is, and no standing hook waits anywhere."""
        ends = [self.ln_final, self.unembed]
        points = [point for end in ends for name, point in end.named_children() if name.startswith("hook_")]
        points += [self.hook_embed] + ([self.hook_pos_embed] if isinstance(self.config.positions, Learned) else [])
        ours = all(isinstance(part, Part) for part in ends) and all(isinstance(p, HookPoint) for p in points)
        return ours and not self.board and all(getattr(block, "in_pieces", False) for block in self.blocks)

    def _rotation(self, table: RotaryTable, x: Tensor, span: Span) -> Rotation:
        if span.positions is not None:
            return table.at(span.positions, self.config.n_ctx, x)
        return table.between(span.first, span.first + span.n_rows, x)

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
        elif tokens.ndim != 2 or tokens.is_floating_point():
            raise ArgumentError(
                f"tokens must be integers [batch pos], got {tokens.dtype} {list(tokens.shape)}; "
                "give the residual stream together with start_at_layer"
            )
        if tokens.shape[1] == 0:
            raise ArgumentError("a prompt must have at least one token, got none; put BOS in front, or give some text")


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
