"""HookedTransformer: a model, its tokenizer, and what everybody knows.

Text or tokens in, logits, loss and activations out. The names and the order of arguments are those of TransformerLens
2.18.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.activation_cache import ActivationCache, PosSlice, sliced
from pellucid.base.errors import ArgumentError, ConfigError
from pellucid.base.record import Record
from pellucid.base.tensors import get_device
from pellucid.hooks.edits import Edit
from pellucid.hooks.index import plain
from pellucid.hooks.names import Filter, select
from pellucid.hooks.root import Hooks
from pellucid.hooks.run import LiveRun, Place, Run
from pellucid.model.config import Config
from pellucid.model.flat import FlatConfig
from pellucid.model.generate import Sampling, continued
from pellucid.model.past import KeyValueCache
from pellucid.model.size import check_fits
from pellucid.prompts import Prompts, Side, as_ids, checked, with_policy
from pellucid.text.tokenizer import Tokenizer

ReturnType = Literal["logits", "loss", "both"] | None
Input: TypeAlias = (
    str
    | Sequence[str]
    | Sequence[int]
    | Sequence[Sequence[int]]
    | np.ndarray
    | Int[Tensor, " pos"]
    | Int[Tensor, "batch pos"]
)
"""A text, several, or token ids."""


class HookedTransformer(Prompts):
    """A transformer whose every activation can be read and edited.

    Args:
        cfg: What it looks like.
        tokenizer: Its tokenizer, or a function that reads one when it is first needed.
        move_to_device: Move fresh weights to `device`.
        default_padding_side: Where the shorter rows of a batch of texts are padded; None: on the right, or as a
            tokenizer that is given has it.
        seed: Of fresh weights; None draws from torch's own random state.
        device: Where to move them; None: the best one here.
        record: Where the weights came from.

    Example:
        >>> from pellucid.model.config import AttentionConfig
        >>> cfg = Config(n_layers=1, d_model=8, d_vocab=5, n_ctx=16, attention=AttentionConfig(n_heads=2, d_head=4))
        >>> model = HookedTransformer(cfg, seed=0)
        >>> logits, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
        >>> cache["pattern", 0].shape
        torch.Size([1, 2, 3, 3])
    """

    def __init__(
        self,
        cfg: Config,
        tokenizer: Tokenizer | Callable[[], Tokenizer | None] | None = None,
        move_to_device: bool = True,
        default_padding_side: Literal["left", "right"] | None = None,
        *,
        seed: int | None = None,
        device: torch.device | str | None = None,
        record: Record | None = None,
    ) -> None:
        if not isinstance(cfg, Config):
            raise ConfigError(
                f"cfg must be a pellucid.Config, got {type(cfg).__name__}; Config.from_dict reads a table"
            )
        super().__init__(cfg, tokenizer, seed=seed)
        self.record = record or Record(seed=seed)
        self._policy_changes["padding_side"] = default_padding_side or "right"
        if isinstance(tokenizer, Tokenizer) and default_padding_side is not None:
            self.tokenizer = with_policy(tokenizer, padding_side=default_padding_side)
        if move_to_device and not self.embed.W_E.is_meta:
            self.to(_usable(device))

    @property
    def cfg(self) -> FlatConfig:
        """The configuration as a flat, read-only list of fields."""
        return FlatConfig(self, _MORE_FIELDS)

    # Runs

    def forward(
        self,
        input: Input | Float[Tensor, "batch pos d_model"],
        return_type: ReturnType = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: Side = None,
        start_at_layer: int | None = None,
        tokens: Int[Tensor, "batch pos"] | None = None,
        shortformer_pos_embed: Any = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: KeyValueCache | None = None,
        *,
        run: LiveRun | None = None,
        **more: Any,
    ) -> Any:
        """One forward pass.

        Args:
            input: A text, several, token ids `[batch pos]` or `[pos]`; with `start_at_layer`, the residual stream
                there.
            return_type: `"logits"`, `"loss"`, `"both"` as (logits, loss), or None where only hooks count.
            loss_per_token: Loss of each position `[batch pos-1]` instead of the mean, in nats.
            prepend_bos: For text; None: as the policy says.
            padding_side: None: as the policy says. Left padding is also recognised in token ids.
            start_at_layer: First block that runs; negative counts from the last.
            tokens: The token ids, where the input is a residual stream and a loss is wanted.
            shortformer_pos_embed: Not offered; here for the order of arguments.
            attention_mask: 1 at real tokens, 0 at padding.
            stop_at_layer: First block that does not run; the residual stream there is given back.
            past_kv_cache: Keys and values that these tokens continue; it grows by them.
            run: Who listens.
            **more: `positions`, `logits_at`, as for `Decoder.forward`.

        Raises:
            TokenError: The text cannot be encoded.
            ArgumentError: Arguments do not fit the model or each other.
        """
        if shortformer_pos_embed is not None:
            raise ArgumentError(
                "shortformer_pos_embed must be None: a model with such positions adds its own; leave it out"
            )
        if return_type not in ("logits", "loss", "both", None):
            raise ArgumentError(f"return_type must be 'logits', 'loss', 'both' or None, got {return_type!r}")
        given: Any = input
        if start_at_layer is None:
            given, attention_mask = self._ids(input, attention_mask, prepend_bos, padding_side)
            tokens = given
        elif not isinstance(given, Tensor):
            raise ArgumentError(
                f"with start_at_layer the input must be a residual stream [batch pos d_model], got {given!r}; "
                "leave start_at_layer out for text and token ids"
            )
        wants_loss = return_type in ("loss", "both") and stop_at_layer is None
        if wants_loss and more.get("logits_at") is not None:
            raise ArgumentError("a loss needs the logits of all positions; leave logits_at out, or ask for logits")
        out = super().forward(
            given,
            start_at_layer=start_at_layer,
            attention_mask=attention_mask,
            stop_at_layer=stop_at_layer,
            past_kv_cache=past_kv_cache,
            unembed=return_type is not None,
            run=run,
            **more,
        )
        if stop_at_layer is not None or return_type == "logits":
            return out
        if not wants_loss:
            return None
        if tokens is None:
            raise ArgumentError("a loss needs token ids, got a residual stream alone; pass tokens=")
        loss = self.loss_fn(out, tokens, attention_mask, per_token=loss_per_token)
        return (out, loss) if return_type == "both" else loss

    def run(self, tokens: Any, *, edits: Edit | Sequence[Edit] = (), reads: Filter = (), **more: Any) -> Run:
        """A run as a value, with edits made and activations read; it leaves nothing behind.

        Args:
            tokens: As `input` of a call: text or token ids.
            edits: One such as `Zero("z", layer=0, head=1)`, or several, applied in their order.
            reads: Names of activations, short ones for every layer; None for all.
            **more: `past start_at_layer stop_at_layer logits_at attention`, as for `Decoder.run`.

        Returns:
            Logits, and an `ActivationCache` of what was read.
        """
        done = super().run(tokens, edits=edits, reads=reads, **more)
        return Run(done.logits, ActivationCache(done.cache, self), done.mask)

    def run_with_cache(
        self,
        *args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        names_filter: Filter = None,
        device: torch.device | str | None = None,
        incl_bwd: bool = False,
        clear_contexts: bool = False,
        pos_slice: PosSlice = None,
        keep_graph: bool = False,
        **kwargs: Any,
    ) -> Any:
        """A forward pass, and its activations.

        Args:
            *args: As for a call of the model.
            return_cache_object: An `ActivationCache`; False gives a plain dict.
            remove_batch_dim: Take the batch axis off the cache (never off the logits), where the batch is one prompt.
            names_filter: Which activations: a name, a shorthand, a list of them, a callable on names; None for all.
            device: Where to keep them.
            incl_bwd: Also the gradient of what the call gives (a loss) by each activation, under its name + `"_grad"`.
                Parameters get no `.grad`, and the graph is spent: the loss cannot be differentiated once more.
            clear_contexts: Also forget what hooks kept in `ctx`, at the end.
            pos_slice: Keep some positions only (query positions, of scores and patterns).
            keep_graph: Leave the activations in the autograd graph instead of detaching them.
            **kwargs: As for a call of the model.

        Returns:
            (what a call gives, the cache).

        Raises:
            UnknownNameError: `names_filter` means no hook point.
            TooLargeError: The cache does not fit in memory.
        """
        names = select(self.hook_names, names_filter)
        pos_slice = plain(pos_slice, "pos_slice")
        graph = incl_bwd or keep_graph
        kept: dict[str, Tensor] = {}
        past = kwargs.get("past_kv_cache")

        def stored(name: str, x: Tensor) -> Tensor:
            x = x if keep_graph else x.detach()
            if pos_slice is not None:
                x = sliced(name, x, pos_slice).clone()  # a view would hold the whole activation
            return x if device is None else x.to(device)

        def keep(x: Tensor, point: Place) -> None:
            kept[point.name] = x if graph else stored(point.name, x)

        def check_size(x: Tensor, point: Place) -> None:
            kept = sliced(first, x, [pos_slice] if isinstance(pos_slice, int) else pos_slice)
            others = x.shape[1] - kept.shape[1] + (0 if past is None else len(past))
            check_fits(self.config, names, kept, n_others=others, device=torch.device(device or x.device))

        live = self.live_run()
        first = self._first_point(kwargs.get("start_at_layer"))
        for name in dict.fromkeys([first, *names]) if incl_bwd else ():
            live.add_hook(name, lambda gradient, hook: None, "bwd")  # so that the loss depends on what is kept
        live.add_reader(first, check_size)
        for name in names:
            live.add_reader(name, keep)
        try:
            out = self(*args, run=live, **kwargs)
        finally:
            if clear_contexts:
                self.clear_contexts()
        if names and not kept:
            raise ArgumentError(
                f"the run must reach an activation that names_filter means, such as {names[0]}, but it stopped before; "
                "raise stop_at_layer"
            )
        gradients = _gradients(out, kept) if incl_bwd else {}
        if graph:
            kept = {name: stored(name, x) for name, x in kept.items()}
        cache = ActivationCache(kept | {f"{name}_grad": stored(name, x) for name, x in gradients.items()}, self)
        if remove_batch_dim:
            cache.remove_batch_dim()
        return out, cache if return_cache_object else cache.cache_dict

    def loss_fn(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Tensor | None = None,
        per_token: bool = False,
    ) -> Float[Tensor, "..."]:
        """Cross-entropy of each next token, in nats.

        Args:
            logits: Of each position.
            tokens: The ids that stood there.
            attention_mask: 1 at real tokens; where it is 0, or the next one is, the loss is 0 and does not count.
            per_token: `[batch pos-1]` instead of the mean.
        """
        wide = logits[:, :-1] if logits.dtype == torch.float64 else logits[:, :-1].float()
        losses = F.cross_entropy(wide.transpose(1, 2), tokens[:, 1:].long().to(logits.device), reduction="none")
        if attention_mask is None:
            return losses if per_token else losses.mean()
        real = attention_mask.to(logits.device).bool()
        counted = real[:, :-1] & real[:, 1:]
        losses = losses * counted
        return losses if per_token else losses.sum() / counted.sum()

    @torch.no_grad()
    def generate(
        self,
        input: Input = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: Side = None,
        return_type: Literal["input", "str", "tokens"] = "input",
        verbose: bool = True,
        *,
        repetition_penalty: float = 1.0,
        fwd_hooks: Hooks = (),
        seed: int | None = None,
    ) -> Any:
        """Continues prompts, one token after the other.

        Args:
            input: A text, several, or token ids (padded on the left, if at all).
            max_new_tokens: The most that is added.
            stop_at_eos: End a row at the end-of-sequence token, where the tokenizer has one.
            eos_token_id: What ends a row; None: the tokenizer's.
            do_sample: False takes the most probable token always; the next five shape the draw (see `Sampling`).
            top_k: Draw from the k most probable tokens.
            top_p: Draw from the most probable tokens with this much probability together.
            temperature: Divides the logits.
            freq_penalty: Taken off a token's logit for each time that it was said.
            use_past_kv_cache: Keep keys and values, instead of running the whole text again for each token.
            prepend_bos: For text; None: as the policy says.
            padding_side: Text is padded on the left here; only `"left"` can be asked for.
            return_type: `"str"`, `"tokens"`, or `"input"`: the same as was given.
            verbose: Show a progress bar on stderr.
            repetition_penalty: Makes tokens that were said less probable.
            fwd_hooks: Hooks that join every step, as in `run_with_hooks`; standing hooks do too.
            seed: Of the draw; None takes torch's own random state.

        Returns:
            Text without the BOS that was put in front, or ids `[batch pos+new]`; a row that ended is filled up with the
            end-of-sequence token.

        Raises:
            ArgumentError: The text would outgrow the model's context, or an argument cannot be.
        """
        if return_type not in ("input", "str", "tokens"):
            raise ArgumentError(f"return_type must be 'input', 'str' or 'tokens', got {return_type!r}")
        if padding_side == "right":
            raise ArgumentError("generation continues the end of each row, so padding_side must be 'left', got 'right'")
        if max_new_tokens < 0:
            raise ArgumentError(f"max_new_tokens must be 0 or more, got {max_new_tokens}")
        tokens, mask = self._ids(input, None, prepend_bos, "left")
        if tokens.shape[1] + max_new_tokens > self.config.n_ctx:
            raise ArgumentError(
                f"prompt and new tokens must fit n_ctx={self.config.n_ctx}, got {tokens.shape[1]} + {max_new_tokens}; "
                "ask for fewer, or shorten the prompt"
            )
        if stop_at_eos and eos_token_id is None and self.policy is not None:
            eos_token_id = self.policy.eos_id
        sampling = Sampling(
            do_sample=do_sample,
            top_k=top_k,
            top_p=top_p,
            temperature=temperature,
            freq_penalty=freq_penalty,
            repetition_penalty=repetition_penalty,
        )
        with self.hooks(fwd_hooks) if fwd_hooks else nullcontext():
            said, real = continued(
                self,
                tokens,
                steps=_tracked(max_new_tokens) if verbose else range(max_new_tokens),
                sampling=sampling,
                mask=mask,
                past=KeyValueCache(self.config.n_layers) if use_past_kv_cache else None,
                stop=eos_token_id if stop_at_eos else None,
                generator=None if seed is None else torch.Generator(self.device).manual_seed(seed),
            )
        is_text = _is_text(input)
        if return_type == "tokens" or (return_type == "input" and not is_text):
            return said
        texts = [self._said(row[kept], prepend_bos if is_text else False) for row, kept in zip(said, real, strict=True)]
        return texts if len(texts) > 1 or not isinstance(input, str | Tensor) else texts[0]

    # Where it comes from

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | Path,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        refactor_factored_attn_matrices: bool = False,
        checkpoint_index: int | None = None,
        checkpoint_value: int | None = None,
        hf_model: Any = None,
        device: torch.device | str | None = None,
        n_devices: int = 1,
        tokenizer: Tokenizer | None = None,
        move_to_device: bool = True,
        fold_value_biases: bool = True,
        default_prepend_bos: bool | None = None,
        default_padding_side: Literal["left", "right"] | None = None,
        dtype: torch.dtype | str = "float32",
        first_n_layers: int | None = None,
        *,
        mmap: bool | None = None,
        revision: str | None = None,
    ) -> "HookedTransformer":
        """A trained model: from a folder, a bundled one, or a name on the hub.

        Args:
            model_name: Looked up in this order: a folder that exists, a bundled model, an alias, a name on the hub.
            fold_ln: Fold the norms' weights into what reads them. Like the next two and `fold_value_biases`, it does
                not change the model's probabilities, and `record.processing` says whether it applied.
            center_writing_weights: Take the mean off what writes into the stream (LayerNorm ignores it).
            center_unembed: Take the mean off the logits (softmax ignores it).
            refactor_factored_attn_matrices: Not offered.
            checkpoint_index: Of the folder of a training run: which of its checkpoints, in the order of their steps;
                negative counts from the last.
            checkpoint_value: The same by its step. None of the two: the end of the run.
            hf_model: A loaded `transformers` model, whose weights are taken instead of files'.
            device: None: the best one here.
            n_devices: Only 1.
            tokenizer: Taken instead of the folder's own.
            move_to_device: False leaves the model where it was read, on the CPU.
            fold_value_biases: Fold the values' biases into the output's.
            default_prepend_bos: Whether BOS is put before text; None: where the tokenizer has one.
            default_padding_side: Where the shorter rows of a batch of texts are padded; None: on the right, or as a
                tokenizer that is given has it.
            dtype: Of the weights as held.
            first_n_layers: Load only so many blocks.
            mmap: Map the files into memory instead of reading them; None: only files of the hub's cache, which nobody
                overwrites.
            revision: Of the hub's repository.

        Raises:
            ArgumentError: An argument cannot be, or is not offered.
            CheckpointError: Nothing can be loaded under that name, or a file is damaged or of an unknown kind.
        """
        from pellucid.pretrained.checkpoints import checkpoint
        from pellucid.pretrained.load import Options, load
        from pellucid.pretrained.processing import Processing

        refused = {
            "refactor_factored_attn_matrices": (refactor_factored_attn_matrices, False),
            "n_devices": (n_devices, 1),
        }
        for name, (given, only) in refused.items():
            if given != only:
                raise ArgumentError(f"{name} must be {only}, which is all that is offered, got {given!r}")
        if not isinstance(model_name, str | Path) or not str(model_name):
            raise ArgumentError(
                f"model_name must be a name or a folder, got {model_name!r}; `pellucid models` lists some"
            )
        if checkpoint_index is not None or checkpoint_value is not None:
            model_name = checkpoint(model_name, index=checkpoint_index, value=checkpoint_value)
        device = _usable(device)
        checked(tokenizer)
        loaded = load(
            model_name,
            make=lambda config: cls(config, move_to_device=False, default_padding_side=default_padding_side),
            processing=Processing(
                fold_ln=fold_ln,
                center_writing_weights=center_writing_weights,
                center_unembed=center_unembed,
                fold_value_biases=fold_value_biases,
            ),
            options=Options(
                dtype=dtype, mmap=mmap, first_n_layers=first_n_layers, hf_model=hf_model, revision=revision
            ),
        )
        model = loaded.model
        model.record = loaded.record
        changes = {"prepend_bos": default_prepend_bos, "padding_side": default_padding_side}
        changes = {name: change for name, change in changes.items() if change is not None}
        model._policy_changes |= changes
        model._tokenizer = loaded.tokenizer if tokenizer is None else with_policy(tokenizer, **changes)
        return model.to(device) if move_to_device else model

    @classmethod
    def from_pretrained_no_processing(cls, model_name: str | Path, **kwargs: Any) -> "HookedTransformer":
        """As `from_pretrained`, with the weights as they are in the file."""
        for step in ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases"):
            kwargs.setdefault(step, False)
        return cls.from_pretrained(model_name, **kwargs)

    def save_pretrained(self, folder: str | Path, *, family: str | None = None) -> None:
        """Writes the model to a folder that `from_pretrained` reads: all of it or nothing.

        Args:
            folder: Made if it is not there.
            family: `"gpt2"`, `"llama"`: in that family's own format, which `transformers` reads; `"pellucid"`: in ours;
                None: in the format that it came in, ours where it was processed.

        Raises:
            OutputError: The folder cannot be written.
            CheckpointError: The family cannot express this model.
        """
        from pellucid.pretrained.export import save_pretrained

        save_pretrained(self, folder, family=family, tokenizer=self.tokenizer, record=self.record)

    # Within

    def _ids(
        self, input: Any, attention_mask: Tensor | None, prepend_bos: bool | None, padding_side: Side
    ) -> tuple[Int[Tensor, "batch pos"], Tensor | None]:
        """Token ids on the model's device, and the mask of the real ones; no mask where all are."""
        if _is_text(input):
            found = self.encoded(input, prepend_bos=prepend_bos, padding_side=padding_side)
            if attention_mask is None and len(found.mask) > 1 and not found.mask.all():
                attention_mask = found.mask
            return found.tokens, attention_mask
        tokens = as_ids(input, self.device)
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if attention_mask is None and self._padded_left(padding_side):
            attention_mask = self.real_tokens(tokens, "left", prepend_bos)
        return tokens, attention_mask

    def _padded_left(self, side: Side) -> bool:
        """Whether rows of ids may be padded on the left: the call says so, or the tokenizer in use pads there."""
        if side is None and isinstance(self._tokenizer, Tokenizer):
            side = self._tokenizer.padding_side
        return (side or self._policy_changes["padding_side"]) == "left"

    def _said(self, row: Tensor, prepend_bos: bool | None) -> str:
        policy = self.policy
        front = policy is not None and (policy.prepend_bos if prepend_bos is None else prepend_bos)
        return str(self.to_string(row[1:] if front else row))

    def _first_point(self, start_at_layer: int | None) -> str:
        if start_at_layer is None:
            return "hook_embed"
        n = self.config.n_layers
        layer = start_at_layer + n if start_at_layer < 0 else start_at_layer
        return f"blocks.{layer}.hook_resid_pre" if layer < n else "ln_final.hook_scale"


def record_of(model: HookedTransformer, **changes: Any) -> Record:
    """The model's record, with where it runs now."""
    return model.record.add(device=str(model.device), dtype=str(model.dtype).removeprefix("torch."), **changes)


def _usable(device: torch.device | str | None) -> torch.device:
    """A device that tensors can be made on; None: the best one here."""
    try:
        return get_device() if device is None else torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ArgumentError(
            f"device must be one that torch has here, such as 'cpu' or 'cuda', got {device!r}: {error}"
        ) from error


def _prepends_bos(model: HookedTransformer) -> bool | None:
    return None if model.policy is None else model.policy.prepend_bos


def _tokenizer_name(model: HookedTransformer) -> str | None:
    return None if model.tokenizer is None else model.tokenizer.name_or_path


_MORE_FIELDS = {
    "model_name": attrgetter("record.model"),
    "seed": attrgetter("record.seed"),
    "default_prepend_bos": _prepends_bos,
    "tokenizer_name": _tokenizer_name,
}
"""Fields of `cfg` that the decoder's configuration does not tell."""


def _gradients(out: Any, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a scalar by each activation that it depends on."""
    if not isinstance(out, Tensor) or out.numel() != 1:
        shape = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ArgumentError(f"incl_bwd needs one number to differentiate, got {shape}; pass return_type='loss'")
    found = torch.autograd.grad(out, list(kept.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(kept, found, strict=True) if gradient is not None}


def _is_text(input: Any) -> bool:
    return isinstance(input, str) or (isinstance(input, list | tuple) and len(input) > 0 and isinstance(input[0], str))


def _tracked(n: int) -> Iterable[int]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = console.is_terminal or console.is_jupyter
    return track(range(n), description="tokens", console=console, transient=True, disable=not shown)
