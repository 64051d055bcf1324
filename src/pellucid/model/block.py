"""A block: attention reads the stream and writes to it, then the MLP does."""

from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooks.point import HookPoint, Part, at, call
from pellucid.hooks.run import LiveRun
from pellucid.model.attention import Attention
from pellucid.model.config import Config
from pellucid.model.mlp import MLP
from pellucid.model.norms import make_norm
from pellucid.model.past import Span
from pellucid.model.positional import Rotary


class Block(Part):
    """`x + attn(ln1(x))`, then `x + mlp(ln2(x))`; an attention-only block has no second half."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.residual = config.residual
        self.heads = {"q": config.attention.n_heads, "k": config.attention.kv_heads, "v": config.attention.kv_heads}
        self.ln1 = make_norm(config.d_model, config.norm)
        rotary = isinstance(config.positions, Rotary)
        self.attn = Attention(config.d_model, config.attention, layer=layer, rotary=rotary)
        self.hook_resid_pre = HookPoint()
        if config.attention.kv_heads == config.attention.n_heads:
            self.hook_attn_in = HookPoint()
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()
        self.hook_attn_out = HookPoint()
        self.mlp = None
        if config.mlp is not None:
            self.hook_resid_mid, self.hook_mlp_in = HookPoint(), HookPoint()
            self.ln2 = make_norm(config.d_model, config.norm)
            self.mlp = MLP(config.d_model, config.mlp)
            self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], span: Span, run: LiveRun | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the block."""
        x = at(self.hook_resid_pre, x, run)
        x = self.joined(x, at(self.hook_attn_out, self._attention(x, span, run), run))
        if self.mlp is not None:
            x = at(self.hook_resid_mid, x, run)
            read = call(self.ln2, at(self.hook_mlp_in, x, run), run=run)
            x = self.joined(x, at(self.hook_mlp_out, call(self.mlp, read, run=run), run))
        return at(self.hook_resid_post, x, run)

    def joined(
        self, x: Float[Tensor, "*rows d_model"], out: Float[Tensor, "*rows d_model"]
    ) -> Float[Tensor, "*rows d_model"]:
        """The stream after a part has written to it."""
        return x + out if self.residual else out

    @property
    def in_pieces(self) -> bool:
        """Whether its pieces, one after the other, are all that it does: no foreign module stands among them."""
        parts = [self.ln1, self.attn] if self.mlp is None else [self.ln1, self.attn, self.ln2, self.mlp]
        points = [module for name, module in self.named_modules() if name.rpartition(".")[2].startswith("hook_")]
        return all(isinstance(part, Part) for part in parts) and all(isinstance(p, HookPoint) for p in points)

    def _attention(self, x: Tensor, span: Span, run: LiveRun | None) -> Tensor:
        """What attention writes. Points on demand show each head's own copy of the stream; only edits make it one."""
        inputs = [x, x, x]
        own = False
        if run is not None:
            inputs, own = self._inputs(x, run)
        if not own:
            return call(self.attn, call(self.ln1, x, run=run), span, run=run)
        if not isinstance(self.attn, Part):
            raise ArgumentError(
                "what each head reads can be changed only where attention is the model's own, "
                f"got {type(self.attn).__name__} in its place; change resid_pre instead"
            )
        q, k, v = (call(self.ln1, read, run=run) for read in inputs)
        return call(self.attn, q, span, k, v, run=run)

    def _inputs(self, x: Tensor, run: LiveRun) -> tuple[list[Tensor], bool]:
        """What queries, keys and values read, `[batch pos head d_model]` each, and whether anybody changes it."""
        points = [self.hook_q_input, self.hook_k_input, self.hook_v_input]
        together = getattr(self, "hook_attn_in", None)
        listened = [p for p in [together, *points] if p is not None and run.listens(p)]
        if not listened:
            return [x, x, x], False
        if together is not None:
            shared = at(together, _for_each_head(x, self.heads["q"]), run)
            inputs = [at(point, shared, run) for point in points]
        else:
            inputs = [at(p, _for_each_head(x, n), run) for p, n in zip(points, self.heads.values(), strict=True)]
        return inputs, any(run.edits(point) for point in listened)


def _for_each_head(x: Tensor, heads: int) -> Tensor:
    return x.unsqueeze(2).expand(-1, -1, heads, -1)
