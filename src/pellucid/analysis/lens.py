"""The logit lens: what a model would say if it stopped at a state, layer by layer and position by position.

In: a model and prompts. Out: for each state the tokens that it says through the final norm and `W_U`, what that leaves
to an answer, and how far it is from the model's own prediction. The norm is recomputed for each state, which is what
tells a lens from direct logit attribution, where it is frozen at the run's.

Rows of the vocabulary are made for some positions at a time, and never kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.analysis import reading
from pellucid.analysis.lens_cells import COPIES, Cells, divergence, said
from pellucid.analysis.lens_prompts import LensPrompts
from pellucid.analysis.reading import chunks
from pellucid.analysis.token_circuits import within
from pellucid.analysis.token_tables import words_of
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.base.record import Record
from pellucid.base.shown import Showing, Shown
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least, plain
from pellucid.measurement import Measurement
from pellucid.model.decompose import Activations, head_results, parts, stream, value_bias

SITES = ("resid", "attn_out", "mlp_out", "head")


@runtime_checkable
class Translator(Protocol):
    """What a state passes before the final norm, such as a `TunedLens`."""

    @property
    def record(self) -> Record:
        """How it was made."""
        ...

    def check(self, model: HookedTransformer) -> None:
        """Refuses a model that it is not for."""
        ...

    def __call__(self, states: Float[Tensor, "*rows d_model"], layer: int) -> Float[Tensor, "*rows d_model"]:
        """The states that a layer reads, translated into final ones."""
        ...


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Lens(Showing):
    """What each state says: a table of tokens, and three Measurements of the same cells.

    The axes of all are ``[prompt layer pos]``, of single heads ``[prompt layer pos head]``. Of the stream (site
    ``"resid"``) layer l is what layer l reads: 0 the embeddings, `n_layers` the final stream, which says what the model
    says. Of the other sites layer l is what layer l writes. Padding and positions that were not read are NaN, their
    tokens -1.
    """

    site: str
    target: str
    """Whose rank and probability are told: ``"answer"``, ``"prediction"`` or ``"next"``."""
    ids: Int[Tensor, "prompt layer *cell k"]
    """The most probable tokens of each cell, best first."""
    shares: Float[Tensor, "prompt layer *cell k"]
    """Their probabilities."""
    probability: Measurement
    """Of the target; fraction."""
    rank: Measurement
    """How many tokens are more probable than the target: 0 where it, or an equal one, is on top; tokens."""
    kl: Measurement
    """KL(the model's own prediction at that position ‖ the state's), nats."""
    tokens: list[list[str]]
    """The tokens of each prompt as text; their ids where the model has no tokenizer."""
    targets: Int[Tensor, "prompt pos"]
    """The token that rank and probability speak of, at each position; -1 for none."""
    words: Mapping[int, str]
    """The text of each token in `ids` and `targets`."""

    @property
    def record(self) -> Record:
        """How all of it was made."""
        return self.kl.record

    @property
    def layers(self) -> list[int]:
        """Labels of the axis ``layer``."""
        return self.kl.dataset["layer"].values.tolist()

    def top(self, layer: int, pos: int, *, head: int | None = None, prompt: int = 0) -> list[tuple[str, float]]:
        """The most probable tokens of one cell, with their probabilities.

        Args:
            layer: Its label on the axis ``layer``.
            pos: Position; negative ones count from the prompt's end.
            head: Of site ``"head"``.
            prompt: Which prompt.

        Raises:
            ArgumentError: There is no such cell, or it was not read.
        """
        if (self.site == "head") != (head is not None):
            raise ArgumentError(f"head must be told for site 'head' alone, got head={head} for {self.site!r}")
        prompt = within("prompt", prompt, len(self.tokens))
        n = len(self.tokens[prompt])
        place = within("layer", layer, len(self.layers))
        if not -n <= pos < n:
            raise ArgumentError(f"pos must lie in {-n}..{n - 1}, got {pos}")
        at = (prompt, place, pos % n)
        at += () if head is None else (within("head", head, self.ids.shape[3]),)
        if int(self.ids[at][0]) < 0:
            raise ArgumentError(f"pos must be a position that was read, got {pos}; see positions= of logit_lens")
        return [(self.words[i], p) for i, p in zip(self.ids[at].tolist(), self.shares[at].tolist(), strict=True)]

    def _shown(self, *, brief: bool) -> Shown:
        """What the end of the first prompt says, layer by layer."""
        heads = range(self.ids.shape[3]) if self.site == "head" else [None]
        cells = [(layer, head) for layer in self.layers for head in heads]
        rows = []
        for layer, head in cells[:24]:
            said = [f"{word!r} {share:.0%}" for word, share in self.top(layer, -1, head=head)]
            rows.append([str(layer) if head is None else f"{layer}.{head}", *said])
        columns = ["layer" if self.site != "head" else "head", *map(str, range(1, 1 + self.ids.shape[-1]))]
        title = f"Lens on {self.site}: what the end of the first of {len(self.tokens)} prompts says"
        return Shown(title=title, columns=columns, rows=rows, rest=max(0, len(cells) - 24))


@torch.no_grad()
def logit_lens(
    model: HookedTransformer,
    prompts: Any,
    *,
    site: str = "resid",
    answer: Any = None,
    target: str | None = None,
    k: int = 5,
    positions: Any = None,
    lens: Any = None,
) -> Lens:
    """What each state says through the final norm, recomputed for it, and the unembedding.

    Args:
        model: Model to read.
        prompts: A text, several, token ids ``[pos]`` or ``[prompt pos]``, or pairs, whose clean prompts are read.
        site: ``"resid"``: the stream that each layer reads, and the final one. ``"attn_out"``, ``"mlp_out"``: what each
            layer's attention or MLP writes, alone. ``"head"``: what each head writes, alone, without what it writes
            wherever it attends (its values' bias), which counts with the output's bias, as in processed weights.
        answer: A token whose rank and probability are told everywhere: an id, a text that is one token, or one for each
            prompt. None: that of the pairs (the first of each), else what `target` says.
        target: Without an answer: ``"prediction"``: the model's own most probable token at each position;
            ``"next"``: the token that follows there, none at the end. None: ``"prediction"``.
        k: How many tokens are told of each state.
        positions: Numbers of those that are read, of every prompt; negative ones count from its end. None: all.
        lens: A `Translator` of states of the stream before the norm, such as a `TunedLens`; the final one stays.

    Returns:
        Tokens, and ``[prompt layer pos]``, of heads ``[prompt layer pos head]``: probability (fraction), rank (tokens)
        and KL to the model's own prediction (nats).

    Raises:
        ArgumentError: No MLP; no prompts or no such position; `k` not positive; both answer and target; a lens for
            another site or model.
        UnknownNameError: `site` or `target` is none of these.
        TokenError: An answer is not one token of the vocabulary.

    Warns:
        MisreadWarning: Prompts lack the BOS that the model has; states that are not finite.

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> found = logit_lens(model, [0, 11, 12, 13, 14, 11, 12, 13], answer=14)
        >>> found.layers, found.top(2, -1)[0][0]
        ([0, 1, 2], '14')
        >>> found.rank.sel(prompt=0, layer=2, pos=7).item()
        0.0
    """
    k = at_least("k", k, 1)
    if lens is not None:
        if not isinstance(lens, Translator):
            raise ArgumentError(f"lens must translate states, such as a TunedLens, got {lens!r}")
        if site != "resid":
            raise ArgumentError(
                f"a lens translates states of the stream, got site={site!r}; leave the lens out, or take site='resid'"
            )
        lens.check(model)
    states, read = _States(model, site, lens), LensPrompts.of(model, prompts)
    read, target = read.with_targets(model, answer, target)
    found = _Found(model, read, states, k, target, read.chosen(positions))
    for rows in chunks(read.tokens, widest=states.widest):
        found.read(rows)
    settings = {"site": site, "norm": "recomputed", "target": target, "k": found.cells.k}
    settings |= {} if positions is None else {"positions": plain(positions, "positions")}
    if lens is not None:
        settings["lens"] = {"task": lens.record.task, "seed": lens.record.seed, **lens.record.settings}
    return found.lens(record_of(model, task="logit lens" if lens is None else "tuned lens", settings=settings))


def check_site(site: str, *, what: str = "site") -> None:
    """Whether a lens can look there.

    Args:
        site: One of `SITES`.
        what: What it is called, for the error.

    Raises:
        UnknownNameError: It is none of these.
    """
    if site not in SITES:
        raise UnknownNameError(f"{what} must be a known one, got {site!r}{nearest(site, SITES)}")


class _States:
    """Which states of a run are read."""

    def __init__(self, model: HookedTransformer, site: str, lens: Translator | None) -> None:
        check_site(site)
        if site == "mlp_out" and model.config.mlp is None:
            raise ArgumentError(
                "site='mlp_out' needs a model with MLPs, and this model has attention only; take attn_out"
            )
        self.model, self.site, self._lens = model, site, lens
        n = model.config.n_layers
        self.layers = list(range(n + 1 if site == "resid" else n))
        self.n_heads = model.config.attention.n_heads if site == "head" else None
        self._final = [f"blocks.{n - 1}.hook_resid_post"] if n else [part.name for part in parts(model.config)]

    @property
    def names(self) -> list[str]:
        """Full names of what is read."""
        within = {"resid": "hook_resid_pre", "head": "attn.hook_z"}.get(self.site, f"hook_{self.site}")
        return [f"blocks.{layer}.{within}" for layer in range(self.model.config.n_layers)] + self._final

    @property
    def widest(self) -> int:
        """Numbers that all that is read takes for each position."""
        config = self.model.config
        width = config.attention.n_heads * config.attention.d_head if self.n_heads else config.d_model
        return config.n_layers * width + len(self._final) * config.d_model

    @property
    def cell(self) -> int:
        """Numbers that are made of one position of one layer."""
        return max(COPIES * self.model.config.vocab_out, (self.n_heads or 1) * self.model.config.d_model)

    def final(self, cache: Activations) -> Float[Tensor, "prompt pos d_model"]:
        """What the unembedding reads."""
        return stream(self.model.config, cache)

    def at(
        self, cache: Activations, layer: int, cells: tuple[Tensor, Tensor]
    ) -> Iterator[tuple[int | None, Float[Tensor, "row d_model"]]]:
        """(head, its states) of a layer, at some (prompts, positions)."""
        if self.site == "resid":
            state = stream(self.model.config, cache, layer)[cells]
            last = layer == self.model.config.n_layers
            yield None, state if self._lens is None or last else self._lens(state, layer)
        elif self.site == "head":
            name = f"blocks.{layer}.attn.hook_z"
            z = cache[name][cells] - value_bias(self.model, layer)
            results = head_results(self.model, {name: z}, layer)
            for head in range(results.shape[1]):
                yield head, results[:, head]
        else:
            yield None, cache[f"blocks.{layer}.hook_{self.site}"][cells]


class _Found:
    """What was found so far, cell by cell."""

    def __init__(
        self,
        model: HookedTransformer,
        prompts: LensPrompts,
        states: _States,
        k: int,
        target: str,
        chosen: Bool[Tensor, "prompt pos"],
    ) -> None:
        self.model, self.prompts, self.states, self.target, self._chosen = model, prompts, states, target, chosen
        shape = (len(prompts.tokens), len(states.layers), prompts.tokens.shape[1])
        shape += () if states.n_heads is None else (states.n_heads,)
        self.cells = Cells(model, shape, k, "kl")
        self.targets = torch.full_like(prompts.tokens, -1, device="cpu")

    def read(self, rows: slice) -> None:
        """Runs some prompts, and reads each of their states."""
        model, states = self.model, self.states
        mask = self.prompts.mask[rows].to(model.device)
        tokens = self.prompts.tokens[rows].to(model.device)
        # Nothing behind the final norm is made of the run: logits come from the states, some rows at a time.
        cache = model.run(tokens, reads=states.names, attention_mask=mask, padding_side="right", return_type=None).cache
        prompt, pos = self._chosen[rows].to(model.device).nonzero(as_tuple=True)
        size = max(1, reading.NUMBERS // states.cell)
        for start in range(0, len(prompt), size):
            here = (prompt[start : start + size], pos[start : start + size])
            final = said(model, states.final(cache)[here])
            asked = self._asked(final, rows, here)
            for place, layer in enumerate(states.layers):
                for head, state in states.at(cache, layer, here):
                    at = (here[0].cpu() + rows.start, place, here[1].cpu())
                    log_p = said(model, state)
                    self.cells.keep(at if head is None else (*at, head), log_p, asked, kl=divergence(final, log_p))

    def _asked(self, final: Tensor, rows: slice, here: tuple[Tensor, Tensor]) -> Int[Tensor, " row"]:
        prompt, pos = here[0].cpu() + rows.start, here[1].cpu()
        targets = self.prompts.targets
        asked = final.argmax(-1) if targets is None else targets[prompt.to(targets.device), pos.to(targets.device)]
        self.targets[prompt, pos] = asked.cpu()
        return asked.to(final.device)

    def lens(self, record: Record) -> Lens:
        """All of it, with names."""
        self.cells.done()
        tokens = [row[real].tolist() for row, real in zip(self.prompts.tokens, self.prompts.mask, strict=True)]
        known = {
            *self.cells.ids.unique().tolist(),
            *self.targets.unique().tolist(),
            *(i for row in tokens for i in row),
        }
        known = sorted(known - {-1})
        words = dict(zip(known, words_of(self.model, known), strict=True))
        dims = ("prompt", "layer", "pos") + (() if self.states.n_heads is None else ("head",))
        coords = {"layer": self.states.layers, **self.prompts.coords}
        if len(tokens) == 1:
            coords["token"] = ("pos", [words[i] for i in tokens[0]])
        units = {"probability": "fraction", "rank": "tokens", "kl": "nats"}
        names = {"probability": f"lens, probability of {self.target}", "rank": f"lens, rank of {self.target}"}
        measured = {
            key: Measurement(
                x, dims, unit=units[key], record=record, name=names.get(key, "lens, KL to the final"), coords=coords
            )
            for key, x in self.cells.values.items()
        }
        return Lens(
            site=self.states.site,
            target=self.target,
            ids=self.cells.ids,
            shares=self.cells.shares,
            tokens=[[words[i] for i in row] for row in tokens],
            targets=self.targets,
            words=words,
            **measured,
        )
