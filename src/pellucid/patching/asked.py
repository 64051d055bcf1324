"""From the arguments of a sweep to an experiment: everything that can be wrong is told here, before any work."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError, nearest
from pellucid.base.memory import free_memory
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.hooks.site import Site
from pellucid.model.positional import Shortformer
from pellucid.patching.budget import MOST_ROWS, SHARE, Budget, as_bytes
from pellucid.patching.experiment import Experiment
from pellucid.patching.grid import Question, Scene
from pellucid.patching.plainly import Metric
from pellucid.patching.plan import make_plan
from pellucid.patching.runs import Edited, Side
from pellucid.patching.sites import FROZEN, axes_of, check_over, layers_of, site_name
from pellucid.pretrained.files import bytes_of
from pellucid.tasks.metrics import RowMetric, default_metric
from pellucid.tasks.pairs import Pairs

NO_SUM = "each cell leaves a row of the pattern that does not sum to 1"
DIRECTIONS = ("denoise", "noise")
MOST_ROWS_ON_CUDA = 2**18


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of a sweep or an ablation, as the caller gave them."""

    site: str | Site | Sequence[str | Site] | None
    over: str | Sequence[str]
    groups: Mapping[str, Site | Sequence[Site]] | None = None
    metric: Metric | None = None
    direction: str = "denoise"
    corrupt: Edit | None = None
    by: Edit | None = None
    freeze: str | Sequence[str] = ()
    max_memory: int | float | str | None = None

    def of(self, model: HookedTransformer, pairs: Pairs) -> Experiment:
        """What is to be run.

        Raises:
            UnknownNameError: A site, an axis, a position or another name means nothing here.
            ArgumentError: The arguments contradict each other, the model or the prompts.
            TokenError: Token ids that the model has not.
        """
        metric, scene = self._looked_at(model, pairs)
        unpatched, other = self._sides(model, pairs)
        question = self._question(model, pairs, metric)
        edited = None if self.by is None else Edited(model, self.by, self._edited_sites(question))
        return Experiment(
            model=model,
            pairs=pairs,
            metric=metric,
            plan=make_plan(question, scene),
            unpatched=unpatched,
            other=None if self.by is not None else other,
            edit=edited,
            clean=self.by is not None or self.direction == "noise",
            budget=self._budget(model),
        )

    def _looked_at(self, model: HookedTransformer, pairs: Pairs) -> tuple[Metric, Scene]:
        """The metric, and what must be known of model and prompts."""
        if self.direction not in DIRECTIONS:
            raise UnknownNameError(
                f"direction must be 'denoise' (clean into corrupted) or 'noise', got {self.direction!r}"
            )
        _check_tokens(model, pairs)
        metric = default_metric(pairs) if self.metric is None else self.metric
        _check_metric(metric, pairs)
        return metric, _scene(model, pairs, metric, self._first(pairs) if self.by is None else [0] * len(pairs))

    def settings(self, experiment: Experiment) -> dict[str, Any]:
        """What a record must tell: all that the numbers depend on beside model and prompts."""
        question = experiment.plan.grid.question
        found: dict[str, Any] = {
            "site": [_told(name, question.parts.get(name)) for name in question.sites],
            "over": list(question.over),
            "metric": repr(experiment.metric) if isinstance(experiment.metric, RowMetric) else _said(experiment.metric),
            "direction": self.direction,
            "freeze": list(question.freeze),
            "prompts": len(experiment.pairs),
        }
        for name, edit in (("corrupt", self.corrupt), ("by", self.by)):
            if edit is not None:
                found[name] = repr(edit)
        if question.groups:
            found["groups"] = {name: [repr(site) for site in sites] for name, sites in question.groups.items()}
        parts = [*question.parts.values(), *(site for sites in question.groups.values() for site in sites)]
        keyed = "k_pos" in question.over or any(part.k_pos is not None for part in parts)
        if "pattern" in question.sites and keyed:
            found["note"] = NO_SUM
        return found

    def values(self) -> dict[str, str]:
        """The numbers in the edits, which settings do not tell, by short names."""
        edits = {"corrupt": self.corrupt, "by": self.by}
        parts = {f"{name}.{key}": value for name, edit in edits.items() if edit for key, value in vars(edit).items()}
        return {name: hashed([x]) if isinstance(x, Tensor) else repr(x) for name, x in parts.items()}

    def _question(self, model: HookedTransformer, pairs: Pairs, metric: Metric) -> Question:
        over = (self.over,) if isinstance(self.over, str) else tuple(self.over)
        groups = _groups(self.groups, over, pairs, model)
        sites, parts = _sites(self.site, groups)
        for part in parts.values():
            _check_part(part, pairs, model)
            _check_told_once(part, over)
        layered = any(layers_of(site, model.hook_names) != [None] for site in sites)
        attention = model.config.attention
        check_over(over, sites, layered=layered, grouped=attention.kv_heads != attention.n_heads)
        check_lengths(over, pairs)
        freeze = _freeze(self.freeze, model)
        return Question(
            sites=sites,
            over=over,
            parts=parts,
            groups=groups,
            causal=self.by is None,
            freeze=freeze,
            plainly=why_plainly(model, metric, freeze, {*sites, *_grouped(groups)}),
        )

    def _edited_sites(self, question: Question) -> list[str]:
        if not question.groups:
            return list(question.sites)
        return _grouped(question.groups)

    def _sides(self, model: HookedTransformer, pairs: Pairs) -> tuple[Side, Side]:
        """The run that is patched, and the other one."""
        clean, corrupted = Side(pairs.clean), Side(pairs.corrupted)
        if self.corrupt is not None:
            corrupted = Side(pairs.clean, self._corrupting(model), self._reached(pairs), pairs.lengths)
        if self.by is not None or self.direction == "noise":
            return clean, corrupted
        return corrupted, clean

    def _corrupting(self, model: HookedTransformer) -> Edit:
        """The edit that makes the corrupted run, its positions apart."""
        site = None if self.corrupt is None else self.corrupt.site
        if self.corrupt is None or site is None or site_name(site.name) not in ("embed", "pos_embed"):
            raise ArgumentError(
                f"corrupt must be an edit of embed or pos_embed, below all that is patched, got {self.corrupt!r}; "
                "such as Noise('embed', pos='subject', std=0.1)"
            )
        if site_name(site.name) == "pos_embed" and isinstance(model.config.positions, Shortformer):
            raise ArgumentError(
                "corrupt must be an edit of embed in this model, where positions reach every layer's queries and keys, "
                f"got {self.corrupt!r}; no layer lies above that"
            )
        return self.corrupt.at(replace(site, pos=None))

    def _reached(self, pairs: Pairs) -> Bool[Tensor, "batch pos"]:
        """The positions that `corrupt` edits."""
        pos: Any = None if self.corrupt is None or self.corrupt.site is None else self.corrupt.site.pos
        if pos is None:
            return pairs.mask.clone()
        if isinstance(pos, str):
            return torch.nn.functional.one_hot(_named(pairs, pos), pairs.mask.shape[1]).bool()
        reached = torch.zeros_like(pairs.mask)
        for row, length in enumerate(pairs.lengths.tolist()):
            _, index, _ = Site("embed", pos=pos).index((1, length, 1))
            reached[row, torch.arange(length)[index]] = True
        return reached

    def _first(self, pairs: Pairs) -> list[int]:
        """Where each prompt's two runs begin to differ; its length where they never do."""
        differs = pairs.clean != pairs.corrupted if self.corrupt is None else self._reached(pairs)
        first = torch.where(differs.any(1), differs.long().argmax(1), pairs.lengths)
        return torch.minimum(first, pairs.lengths).tolist()

    def _budget(self, model: HookedTransformer) -> Budget:
        limit = None if self.max_memory is None else as_bytes(self.max_memory)
        if limit is None:
            free = free_memory(model.device)
            limit = 2**32 if free is None else int(SHARE * free)
        most = MOST_ROWS_ON_CUDA if model.device.type == "cuda" else MOST_ROWS
        return Budget(model.config, model.embed.W_E.element_size(), limit, most)


def check_lengths(over: Sequence[str], pairs: Pairs) -> None:
    """Whether positions may be told apart by their number."""
    if {"pos", "q_pos", "k_pos"} & set(over) and len(set(pairs.lengths.tolist())) > 1:
        raise ArgumentError(
            f"prompts must have one length to be patched over pos, got {_listed(pairs.lengths)} tokens; "
            "name positions, and patch over position"
        )


def _grouped(groups: Mapping[str, Sequence[Site]]) -> list[str]:
    """The names of the sites that groups are of."""
    return list(dict.fromkeys(site_name(site.name) for sites in groups.values() for site in sites))


def _check_tokens(model: HookedTransformer, pairs: Pairs) -> None:
    longest, n_ctx = int(pairs.lengths.max()), model.config.n_ctx
    if longest > n_ctx:
        raise ArgumentError(f"a prompt must have at most n_ctx={n_ctx} tokens, got {longest}; shorten it")
    checked = [("clean", pairs.clean, model.config.d_vocab), ("corrupted", pairs.corrupted, model.config.d_vocab)]
    checked += [("answer", pairs.answer, model.config.vocab_out), ("wrong", pairs.wrong, model.config.vocab_out)]
    for name, ids, n in checked:
        if ids is not None and ids.numel() and int(ids.max()) >= n:
            raise TokenError(
                f"token ids of {name} must lie in 0..{n - 1}, got {int(ids.max())}; use the model's own tokenizer"
            )


def _check_metric(metric: Metric, pairs: Pairs) -> None:
    if isinstance(metric, type) or not callable(metric):
        raise ArgumentError(
            f"metric must be a metric such as LogitDiff(), or a function (logits, pairs) → [batch], got {metric!r}"
        )
    if isinstance(metric, RowMetric):
        metric.check(pairs)


def _scene(model: HookedTransformer, pairs: Pairs, metric: Metric, first: Sequence[int]) -> Scene:
    lengths = pairs.lengths.tolist()
    if isinstance(metric, RowMetric):
        wanted = tuple(tuple(sorted({row for row in rows if row >= 0})) for rows in metric.rows(pairs).tolist())
    else:
        wanted = tuple(tuple(range(length)) for length in lengths)
    return Scene(
        n_layers=model.config.n_layers,
        hook_names=tuple(model.hook_names),
        sizes=_sizes(model),
        lengths=tuple(lengths),
        first=tuple(first),
        wanted=wanted,
        positions={name: tuple(places.tolist()) for name, places in pairs.positions.items()},
    )


def _sites(
    site: str | Site | Sequence[str | Site] | None, groups: Mapping[str, Sequence[Site]]
) -> tuple[tuple[str, ...], dict[str, Site]]:
    """The names of what is patched, and to what each is narrowed."""
    given: tuple[Any, ...] = tuple(site) if isinstance(site, tuple | list) else () if site is None else (site,)
    found: dict[str, Site | None] = {}
    for each in given:
        if not isinstance(each, str | Site):
            raise ArgumentError(f"site must be the name of an activation, a Site, or several, got {each!r}")
        name = site_name(each if isinstance(each, str) else each.name)
        if name in found:
            raise ArgumentError(f"site must name each activation once, got {name} twice; make them groups")
        found[name] = each if isinstance(each, Site) else None
    theirs = {site_name(part.name) for sites in groups.values() for part in sites}
    if groups and found and set(found) != theirs:
        raise ArgumentError(
            f"site must be left out, or be that of the groups, {', '.join(sorted(theirs))}, got {', '.join(found)}"
        )
    if not groups and not found:
        raise ArgumentError("site must name what is patched, got none; such as site='resid_pre'")
    return tuple(found) or tuple(sorted(theirs)), {name: part for name, part in found.items() if part is not None}


def _check_told_once(part: Site, over: Sequence[str]) -> None:
    """Whether what narrows a site is not an axis of the cells as well; layers may be both."""
    for axis in ("pos", "q_pos", "k_pos", "head", "kv_head", "neuron"):
        named = {"pos": {"pos", "position"}, "kv_head": {"kv_head", "head"}}.get(axis, {axis})
        if getattr(part, axis) is not None and named & set(over):
            raise ArgumentError(f"{axis} must be told by site or by over, got both: {part!r} over {', '.join(over)}")


def _told(name: str, part: Site | None) -> str:
    told = {axis: getattr(part, axis, None) for axis in ("layer", "pos", "q_pos", "k_pos", "head", "kv_head", "neuron")}
    return " ".join([name, *(f"{axis} {value}" for axis, value in told.items() if value is not None)])


def _groups(
    groups: Mapping[str, Site | Sequence[Site]] | None, over: Sequence[str], pairs: Pairs, model: HookedTransformer
) -> dict[str, tuple[Site, ...]]:
    if ("group" in over) != bool(groups):
        raise ArgumentError(
            "groups and over='group' go together, as in over='group', groups={'movers': [Site('z', layer=9, head=6)]}, "
            f"got over={', '.join(over)} and {'no groups' if not groups else f'{len(groups)} groups'}"
        )
    found = {name: (part,) if isinstance(part, Site) else tuple(part) for name, part in (groups or {}).items()}
    for name, sites in found.items():
        if not sites or not all(isinstance(site, Site) for site in sites):
            raise ArgumentError(f"a group must be one Site or more, got {sites!r} for {name!r}")
        for site in sites:
            _check_part(site, pairs, model)
    if set(over) - {"group", "pos", "position", "q_pos"} and found:
        raise ArgumentError(f"over must be group, with pos or position at most, where groups are patched, got {over}")
    return found


def _check_part(site: Site, pairs: Pairs, model: HookedTransformer) -> None:
    """Whether the model, and each prompt, has what a group's site means."""
    name = site_name(site.name)
    if isinstance(site.pos, str):
        _named(pairs, site.pos)
        site = replace(site, pos=None)
    sizes: dict[str, int] = {"batch": 1, **_sizes(model)}
    for length in set(pairs.lengths.tolist()):
        known = sizes | {"pos": length, "q_pos": length, "k_pos": length}
        site.index([known.get(axis, 1) for axis in axes_of(name)])


def _sizes(model: HookedTransformer) -> dict[str, int]:
    attention, mlp = model.config.attention, model.config.mlp
    return {"head": attention.n_heads, "kv_head": attention.kv_heads, "neuron": 0 if mlp is None else mlp.d_mlp}


def _named(pairs: Pairs, name: str) -> Tensor:
    if name not in pairs.positions:
        raise UnknownNameError(f"positions must be named by the pairs, got {name!r}{nearest(name, pairs.positions)}")
    return pairs.positions[name]


def _freeze(freeze: str | Sequence[str], model: HookedTransformer) -> tuple[str, ...]:
    found = (freeze,) if isinstance(freeze, str) else tuple(freeze)
    for name in found:
        if name not in FROZEN:
            raise UnknownNameError(f"freeze must be of ln_scale and pattern, got {name!r}{nearest(name, FROZEN)}")
    if "ln_scale" in found and model.config.norm is None:
        raise ArgumentError("freezing ln_scale needs a model with norms, this one has none; leave it out")
    return found


def why_plainly(model: HookedTransformer, metric: Metric, freeze: Sequence[str], sites: Collection[str]) -> str | None:
    """Why cells must be run plainly; None where they need not."""
    if not isinstance(metric, RowMetric):
        return "the metric is a function of all logits"
    if freeze:
        return f"{' and '.join(freeze)} {'are' if len(freeze) > 1 else 'is'} held"
    if model.board:
        return "the model has standing hooks, which must meet whole prompts"
    if not model.in_pieces:
        return "a foreign module stands in the model"
    if "pos_embed" in sites and isinstance(model.config.positions, Shortformer):
        return "positions reach queries and keys in every layer"
    return None if model.config.n_layers else "the model has no layers"


def hashed(tensors: Sequence[Tensor]) -> str:
    """A short name of some numbers."""
    digest = sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(bytes_of(tensor.detach().cpu().contiguous()))
    return digest.hexdigest()[:16]


def _said(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))


def _listed(lengths: Tensor) -> str:
    return " and ".join(map(str, sorted(set(lengths.tolist()))[:5]))
