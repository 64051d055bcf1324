"""Stacks of what was written into the stream, under the names that everybody knows.

A mix-in of `ActivationCache`: the names, arguments, labels and results of TransformerLens 2.18, over the functions of
`model/decompose.py`. Each stack is ``[component *batch_and_pos d_model]``; several arguments are the same everywhere.

- `layer`: what the stream is taken apart for, the input of this layer: 0 to n_layers. None, −1 and n_layers mean the
  final stream, which the unembedding reads.
- `mlp_input`: of that layer the MLP reads, so its attention counts too.
- `pos_slice`: some positions; a single number takes the axis away.
- `apply_ln`: the stack as that layer's norm passes it on, its scale frozen at the run's, without its w and b.
- `return_labels`: (stack, labels) instead of the stack.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError, MisreadWarning, UnknownNameError, nearest
from pellucid.hooks.index import Index, plain
from pellucid.model.decompose import bias_of, head_results, layer_read, neuron_results, parts, stream
from pellucid.model.norms import LayerNorm

Labelled = tuple[Tensor, list[str]]
MODES = ("all", "mlp", "attn")


class Stacks:
    """The methods; a mix-in of a cache that can show itself at some positions."""

    cache_dict: dict[str, Tensor]
    model: Any
    has_batch_dim: bool

    def at_positions(self, pos_slice: Index) -> Mapping[str, Tensor]:
        """The activations at some positions."""
        raise NotImplementedError

    def _of_prompts(self, x: Tensor, axis: int, batch_slice: Index) -> Tensor:
        """Some prompts of a tensor."""
        raise NotImplementedError

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Index = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Float[Tensor, "component *rows d_model"] | Labelled:
        """The stream before each layer up to one: what a logit lens reads.

        Args:
            layer: As for all stacks, like `pos_slice`, `mlp_input` and `return_labels`.
            incl_mid: Also between attention and MLP, where there are MLPs.
            apply_ln: Of the final stream: each state normalised anew by the final norm, w and b included, as a logit
                lens does. Of a layer's input: by that layer's frozen scale, as for all stacks.
            pos_slice: Some positions.
            mlp_input: Up to the layer's MLP.
            return_labels: Also ``0_pre``, ``0_mid``, … ``final_post``.
        """
        config = self._needed_model().config
        last, cache = layer_read(config, layer, mlp_input=mlp_input), self.at_positions(pos_slice)
        places: list[tuple[int, bool]] = []
        for at in range(last + 1):
            mid = incl_mid and at < last and config.mlp is not None
            places += [(at, False), (at, True)] if mid or (mlp_input and at == last) else [(at, False)]
        stack = torch.stack([stream(config, cache, at, mlp_input=mid) for at, mid in places])
        labels = ["final_post" if at == config.n_layers else f"{at}_{'mid' if mid else 'pre'}" for at, mid in places]
        if apply_ln and last == config.n_layers:
            with torch.set_grad_enabled(torch.is_grad_enabled() and stack.requires_grad):
                stack = self.model.ln_final(stack)
        elif apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Index = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Float[Tensor, "component *rows d_model"] | Labelled:
        """The stream by what each embedding, attention layer and MLP wrote; their sum is the stream.

        Args:
            layer: As for all stacks, like `mlp_input`, `apply_ln`, `pos_slice` and `return_labels`.
            mlp_input: Up to the layer's MLP.
            mode: ``"all"``, ``"attn"`` or ``"mlp"`` alone.
            apply_ln: As the layer's norm passes it on.
            pos_slice: Some positions.
            incl_embeds: Also ``embed``, and ``pos_embed`` where positions are in the stream.
            return_labels: Also ``embed``, ``0_attn_out``, ``0_mlp_out`` …

        Example:
            >>> from pellucid import HookedTransformer
            >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
            >>> _, cache = model.run_with_cache(torch.tensor([[11, 12, 11]]))
            >>> stack, labels = cache.decompose_resid(pos_slice=-1, return_labels=True)
            >>> labels, cache.logit_attrs(stack, 12, pos_slice=-1).shape
            (['embed', 'pos_embed', '0_attn_out', '1_attn_out'], torch.Size([4, 1]))
        """
        if mode not in MODES:
            raise UnknownNameError(f"mode must be all, mlp or attn, got {mode!r}{nearest(mode, MODES)}")
        config, cache = self._needed_model().config, self.at_positions(pos_slice)
        wanted = ("attn", "mlp") if mode == "all" else (mode,)
        wanted += ("embed", "pos_embed") if incl_embeds else ()
        found = [part for part in parts(config, layer, mlp_input=mlp_input) if part.kind in wanted]
        stacked = [cache[part.name][None] for part in found]
        labels = [part.kind if part.layer is None else f"{part.layer}_{part.kind}_out" for part in found]
        stack = torch.cat(stacked) if stacked else stream(config, cache, layer, mlp_input=mlp_input)[None][:0]
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def compute_head_results(self) -> None:
        """Keeps what each head wrote as ``result``, `[batch pos head d_model]`, in the cache from now on.

        `stack_head_results` does without: it computes them from ``z`` where they are not kept.
        """
        model = self._needed_model()
        for layer in range(model.config.n_layers):
            results = head_results(model, self.at_positions(None), layer)
            self.cache_dict[f"blocks.{layer}.attn.hook_result"] = results

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Index = None,
        apply_ln: bool = False,
    ) -> Float[Tensor, "component *rows d_model"] | Labelled:
        """What each head of the layers before one wrote into the stream there.

        Args:
            layer: As for all stacks, like `pos_slice`, `apply_ln` and `return_labels`.
            return_labels: Also ``L0H0``, ``L0H1`` …
            incl_remainder: Also the rest of the stream, last, as ``remainder``.
            pos_slice: Some positions.
            apply_ln: As the layer's norm passes it on.
        """
        model, cache = self._needed_model(), self.at_positions(pos_slice)
        layers = [part.layer for part in parts(model.config, layer) if part.kind == "attn" and part.layer is not None]
        found = [head_results(model, cache, at).movedim(-2, 0) for at in layers]
        labels = [f"L{at}H{head}" for at in layers for head in range(model.config.attention.n_heads)]
        stack = self._stacked(found, layer, pos_slice, remainder=incl_remainder)
        labels += ["remainder"] if incl_remainder else []
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Float[Tensor, "layer ..."]:
        """One activation of all layers before one.

        Args:
            activation_name: Short, such as ``"z"``.
            layer: Up to which; None, −1 and n_layers: of all.
            sublayer_type: The part of the block, where the name alone does not tell: ``"ln1"``.
        """
        last = layer_read(self._needed_model().config, layer)
        if not last:
            raise ArgumentError(f"a stack of {activation_name!r} needs one layer or more before layer, got none")
        cache: Any = self
        return torch.stack([cache[activation_name, at, sublayer_type] for at in range(last)])

    def get_neuron_results(
        self, layer: int, neuron_slice: Index = None, pos_slice: Index = None
    ) -> Float[Tensor, "*rows d_model"]:
        """What each neuron of a layer wrote, ``[*batch_and_pos neuron d_model]``; a single number takes the axis away.

        Args:
            layer: Which; negative counts from the last.
            neuron_slice: Some of them.
            pos_slice: Some positions.

        Raises:
            ArgumentError: There is no such layer or neuron, or no MLP.
        """
        at, n = plain(layer, "layer"), self._needed_model().config.n_layers
        if not -n <= at < n:
            raise ArgumentError(f"layer must lie in 0..{n - 1}, got {layer}")
        chosen = self._neurons(neuron_slice)
        results = neuron_results(self.model, self.at_positions(pos_slice), at % n, chosen)
        return results[..., 0, :] if isinstance(plain(neuron_slice, "neuron_slice"), int) else results

    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Index = None,
        neuron_slice: Index = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
    ) -> Float[Tensor, "component *rows d_model"] | Labelled:
        """What each neuron of the layers before one wrote into the stream there; large, unless you take some.

        Args:
            layer: As for all stacks, like `pos_slice`, `apply_ln` and `return_labels`.
            pos_slice: Some positions.
            neuron_slice: Some neurons, the same of each layer.
            return_labels: Also ``L0N0``, ``L0N1`` …
            incl_remainder: Also the rest of the stream, last, as ``remainder``.
            apply_ln: As the layer's norm passes it on.
        """
        model, cache, chosen = self._needed_model(), self.at_positions(pos_slice), self._neurons(neuron_slice)
        layers = [part.layer for part in parts(model.config, layer) if part.kind == "mlp" and part.layer is not None]
        found = [neuron_results(model, cache, at, chosen).movedim(-2, 0) for at in layers]
        labels = [f"L{at}N{neuron}" for at in layers for neuron in chosen]
        stack = self._stacked(found, layer, pos_slice, remainder=incl_remainder)
        labels += ["remainder"] if incl_remainder else []
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Index = None,
        return_labels: bool = False,
    ) -> Float[Tensor, "component *rows d_model"] | Labelled:
        """The stream by heads, neurons or MLPs, embeddings, and all biases together; their sum is the stream.

        Args:
            layer: As for all stacks, like `mlp_input`, `apply_ln`, `pos_slice` and `return_labels`.
            mlp_input: Up to the layer's MLP.
            expand_neurons: Neurons one by one; False: each MLP whole, its bias included.
            apply_ln: As the layer's norm passes it on.
            pos_slice: Some positions.
            return_labels: Also ``L0H0``, ``L0N0`` (or ``0_mlp_out``), ``embed``, ``pos_embed``, ``bias``.
        """
        model, cache = self._needed_model(), self.at_positions(pos_slice)
        here = parts(model.config, layer, mlp_input=mlp_input)
        found, labels, bias = [], [], torch.zeros_like(stream(model.config, cache, layer, mlp_input=mlp_input))
        for part in sorted(here, key=lambda part: ("attn", "mlp", "embed", "pos_embed").index(part.kind)):
            at, expanded = part.layer, part.kind == "attn" or expand_neurons
            if at is None or not expanded:
                found.append(cache[part.name][None])
                labels.append(part.kind if at is None else f"{at}_mlp_out")
                continue
            split = head_results if part.kind == "attn" else neuron_results
            found.append(split(model, cache, at).movedim(-2, 0))
            labels += [f"L{at}{'H' if part.kind == 'attn' else 'N'}{i}" for i in range(len(found[-1]))]
            own = bias_of(model, part)
            bias = bias if own is None else bias + own.to(bias)
        stack, labels = torch.cat([*found, bias[None]]), [*labels, "bias"]
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *rows d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Index = None,
        batch_slice: Index = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "component *rows_out d_model"]:
        """A stack as a layer's norm passes it on: centred by LayerNorm, divided by the scale that the run had.

        The norm's w and b are left out, as in 2.18; `from_pretrained` folds them into what reads the norm.

        Args:
            residual_stack: At the positions of `pos_slice` already.
            layer: Whose norm; None, −1 and n_layers: the final one.
            mlp_input: The norm before the layer's MLP.
            pos_slice: The positions of the stack, taken of the scale.
            batch_slice: Some prompts, taken of the scale and of the stack.
            has_batch_dim: Whether the stack has the batch axis, second.
        """
        config = self._needed_model().config
        at = layer_read(config, layer, mlp_input=mlp_input)
        stack = self._of_prompts(residual_stack, 1, batch_slice) if has_batch_dim else residual_stack
        if config.norm is None:
            return stack
        if isinstance(config.norm, LayerNorm):
            stack = stack - stack.mean(-1, keepdim=True)
        norm = "ln_final" if at == config.n_layers else f"blocks.{at}.ln{2 if mlp_input else 1}"
        scale = self.at_positions(pos_slice)[f"{norm}.hook_scale"]
        return stack / (self._of_prompts(scale, 0, batch_slice) if self.has_batch_dim else scale)

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *rows d_model"],
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Index = None,
        batch_slice: Index = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "component *rows_out"]:
        """What each entry of a stack adds to the logits of tokens directly, the final norm's scale frozen at the run's.

        `pellucid.analysis.logit_attribution` counts the final norm's w and b and the unembedding's bias too.

        Args:
            residual_stack: As from the other methods, at the positions of `pos_slice` already.
            tokens: A text that is one token, an id, `[batch]`, or `[batch pos]`; without the batch axis `[pos]`.
            incorrect_tokens: Of the same shape, whose logits are taken off.
            pos_slice: The positions of the stack.
            batch_slice: Some prompts of the stack; tokens speak of these.
            has_batch_dim: Whether the stack has the batch axis, second.

        Returns:
            ``[component *batch_and_pos]``, logits.

        Warns:
            MisreadWarning: The final norm has a w of its own, which is left out.

        Raises:
            ArgumentError: The shapes do not fit each other.
        """
        model = self._needed_model()
        if getattr(model.ln_final, "w", None) is not None:
            warnings.warn(
                "the final norm has a w of its own, which logit_attrs leaves out, as it did in TransformerLens 2.18: "
                "load the model with fold_ln=True, or take pellucid.analysis.logit_attribution",
                MisreadWarning,
                stacklevel=2,
            )
        right = model.tokens_to_residual_directions(tokens).detach()
        if incorrect_tokens is not None:
            wrong = model.tokens_to_residual_directions(incorrect_tokens).detach()
            if right.shape != wrong.shape:
                shapes = f"{list(right.shape[:-1])} and {list(wrong.shape[:-1])}"
                raise ArgumentError(f"tokens and incorrect_tokens must have the same shape, got {shapes}")
            right = right - wrong
        stack = self.apply_ln_to_stack(residual_stack, -1, False, pos_slice, batch_slice, has_batch_dim)
        return (stack * _fitted(right.to(stack), stack)).sum(-1)

    # Within

    def _needed_model(self) -> Any:
        if self.model is None:
            raise ArgumentError(
                "taking the stream apart needs the model's weights, and this cache knows no model; make it as "
                "ActivationCache(activations, model)"
            )
        return self.model

    def _neurons(self, neuron_slice: Index) -> list[int]:
        """The numbers of some neurons."""
        config = self._needed_model().config
        n = 0 if config.mlp is None else config.mlp.d_mlp
        index = plain(neuron_slice, "neuron_slice")
        if index is None or isinstance(index, slice):
            return list(range(n))[index or slice(None)]
        wanted = [index] if isinstance(index, int) else index
        for i in wanted:
            if not -n <= i < n:
                raise ArgumentError(f"neuron_slice must lie in 0..{n - 1}, got {i}")
        return [i % n for i in wanted]

    def _stacked(self, found: list[Tensor], layer: int | None, pos_slice: Index, *, remainder: bool) -> Tensor:
        """Components in one stack, with the rest of the stream as one more if asked for."""
        if found and not remainder:
            return torch.cat(found)
        whole = stream(self.model.config, self.at_positions(pos_slice), layer)[None]
        stack = torch.cat(found) if found else whole[:0]
        return torch.cat([stack, whole - stack.sum(0)]) if remainder else stack


def _fitted(directions: Float[Tensor, "*tokens d_model"], stack: Tensor) -> Tensor:
    """Directions of one token, of each prompt, or of each prompt and position, laid out as the stack is."""
    rows = stack.shape[1:-1]
    given = directions.shape[:-1]
    if given and given != rows[: len(given)]:
        raise ArgumentError(
            f"tokens must be one, or as many as the stack has prompts (and positions), {list(rows)}, "
            f"got {list(given)}; slice both alike"
        )
    return directions.view(*given, *[1] * (len(rows) - len(given) if given else 0), -1)
