"""All layers' weights as one tensor each, under the names that everybody knows.

They are computed from the blocks' parameters, with their gradients; writing goes through `model.blocks[l].attn.W_Q`. On
grouped-query models `W_K W_V b_K b_V` have the query-head axis here, each kv head repeated, so that `W_K[layer,
head]` is the one that this query head uses. A bias that the model has not is zeros.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import UnknownNameError
from pellucid.maths.factored import FactoredMatrix

if TYPE_CHECKING:
    from pellucid.model.block import Block
    from pellucid.model.config import Config
    from pellucid.model.embed import Embed, Unembed


class Weights:
    """The stacked views; a mix-in of models with one stack."""

    config: "Config"
    embed: "Embed"
    unembed: "Unembed"
    blocks: "Sequence[Block]"

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """The position embedding."""
        pos_embed = getattr(self, "pos_embed", None)
        if pos_embed is None:
            raise UnknownNameError(f"this model has no W_pos: its positions are {self.config.positions!r}")
        return pos_embed.W_pos

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """The unembedding's bias."""
        return self.W_U.new_zeros(self.config.vocab_out) if self.unembed.b_U is None else self.unembed.b_U

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights."""
        return torch.stack([block.attn.W_Q for block in self.blocks])

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights, by query head."""
        return self._by_query_head(torch.stack([block.attn.W_K for block in self.blocks]))

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights, by query head."""
        return self._by_query_head(torch.stack([block.attn.W_V for block in self.blocks]))

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights."""
        return torch.stack([block.attn.W_O for block in self.blocks])

    @property
    def QK(self) -> FactoredMatrix:
        """`W_Q W_Kᵀ` of each head, `[layer head d_model d_model]`: which queries find which keys, scale apart."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    @property
    def OV(self) -> FactoredMatrix:
        """`W_V W_O` of each head, `[layer head d_model d_model]`: what it writes for what it reads."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def b_Q(self) -> Float[Tensor, "layer head d_head"]:
        """Query biases."""
        return self._biases("attn", "b_Q", (self.config.attention.n_heads, self.config.attention.d_head))

    @property
    def b_K(self) -> Float[Tensor, "layer head d_head"]:
        """Key biases, by query head."""
        shape = (self.config.attention.kv_heads, self.config.attention.d_head)
        return self._by_query_head(self._biases("attn", "b_K", shape))

    @property
    def b_V(self) -> Float[Tensor, "layer head d_head"]:
        """Value biases, by query head."""
        shape = (self.config.attention.kv_heads, self.config.attention.d_head)
        return self._by_query_head(self._biases("attn", "b_V", shape))

    @property
    def b_O(self) -> Float[Tensor, "layer d_model"]:
        """Output biases."""
        return self._biases("attn", "b_O", (self.config.d_model,))

    @property
    def W_in(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """What the neurons read."""
        return self._of_mlp("W_in")

    @property
    def W_gate(self) -> Float[Tensor, "layer d_model d_mlp"]:
        """What the gates read."""
        return self._of_mlp("W_gate")

    @property
    def W_out(self) -> Float[Tensor, "layer d_mlp d_model"]:
        """What the neurons write."""
        return self._of_mlp("W_out")

    @property
    def b_in(self) -> Float[Tensor, "layer d_mlp"]:
        """The neurons' biases."""
        return self._biases("mlp", "b_in", (self._d_mlp("b_in"),))

    @property
    def b_out(self) -> Float[Tensor, "layer d_model"]:
        """The MLPs' output biases."""
        self._d_mlp("b_out")
        return self._biases("mlp", "b_out", (self.config.d_model,))

    def _by_query_head(self, stack: Tensor) -> Tensor:
        group = self.config.attention.n_heads // self.config.attention.kv_heads
        return stack if group == 1 else stack.repeat_interleave(group, dim=1)

    def _biases(self, part: str, name: str, shape: tuple[int, ...]) -> Tensor:
        found = [getattr(getattr(block, part), name) for block in self.blocks]
        return torch.stack([self.W_E.new_zeros(shape) if b is None else b for b in found])

    def _of_mlp(self, name: str) -> Tensor:
        self._d_mlp(name)
        found = [getattr(block.mlp, name) for block in self.blocks]
        if any(W is None for W in found):
            raise UnknownNameError(f"this model has no {name}: its MLPs are not gated")
        return torch.stack(found)

    def _d_mlp(self, name: str) -> int:
        if self.config.mlp is None:
            raise UnknownNameError(f"this model has no {name}: it has attention only")
        return self.config.mlp.d_mlp
