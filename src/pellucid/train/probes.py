"""What is looked at while a model trains: on sequences that the training never sees.

In: the model of a step. Out: named Measurements about it, which `Probed` gathers over the steps.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.heads import role_scores
from pellucid.analysis.repeated import default_seq_len, repeated_tokens
from pellucid.base.errors import ConfigError, MisreadWarning
from pellucid.base.record import Record
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.spectrum import effective_rank
from pellucid.measurement import Measurement
from pellucid.model.positional import Learned
from pellucid.train.moments import Moments
from pellucid.train.sequences import IGNORED, Batch

EARLY, LATE = (0.1, 0.2), (0.9, 1.0)
"""The parts of a sequence that the in-context-learning score compares."""
LOGITS = 2**23
"""Made at a time, about."""
SEED = 2**31
"""Added to a run's seed for what is held out, so that it is another draw."""


@dataclass(frozen=True, kw_only=True)
class Probes(Moments):
    """What is looked at, and at which steps: every fortieth part of the run where `every` is None.

    Args:
        seq_len: Random tokens of which a prompt has two copies, for the scores of heads; None: the usual number.
        batch: Such prompts; 0: no scores of heads.
        held_out: Held-out sequences, for the loss by position; 0: none.

    Raises:
        ConfigError: A value cannot be.
    """

    seq_len: int | None = None
    batch: int = 16
    held_out: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch < 0 or self.held_out < 0 or (self.seq_len is not None and self.seq_len < 2):
            raise ConfigError(
                f"batch and held_out must be 0 or more and seq_len 2 or more, got batch={self.batch}, "
                f"held_out={self.held_out}, seq_len={self.seq_len}"
            )

    def of(self, steps: int) -> frozenset[int]:
        """Those steps."""
        return self.steps(steps, parts=40)

    def check(self, n_ctx: int) -> None:
        """Whether the prompts fit a context.

        Raises:
            ConfigError: They do not.
        """
        if self.seq_len is not None and 1 + 2 * self.seq_len > n_ctx:
            raise ConfigError(f"probes.seq_len must leave 1 + 2 seq_len ≤ n_ctx={n_ctx}, got {self.seq_len}")


@torch.no_grad()
def probe(
    model: Any, held_out: Batch | None, settings: Probes, *, seed: int, bytes_per_token: float | None = None
) -> dict[str, Measurement]:
    """Everything that can be said of a model now.

    Args:
        model: A decoder, or an encoder–decoder, which has no scores of heads.
        held_out: Sequences that it does not train on; None: no loss.
        settings: What is looked at.
        seed: Of the repeated tokens.
        bytes_per_token: Of the held-out text, UTF-8; None: it is no text.

    Returns:
        ``head_roles`` and ``head_roles_control`` ``[prompt role layer head]``, attention mass; ``loss`` ``[pos]``, the
        mean over the held-out targets, NaN where a position has none; ``in_context_score`` ``[]``, nats: the loss late
        in the sequences minus the loss early in them (Olsson et al. 2022: the more negative, the better the context is
        used); of text ``bits_per_byte`` ``[]`` and ``in_context_bits_per_byte`` ``[]``, the same two in a unit that
        does not depend on the tokenizer; ``position_rank`` ``[]``, the effective rank of learned positions.
    """
    found: dict[str, Measurement] = {}
    if isinstance(model, HookedTransformer):
        if settings.batch and model.config.n_layers and default_seq_len(model) >= 2:
            found |= _roles(model, settings, seed)
        if isinstance(model.config.positions, Learned):
            rank = effective_rank(model.W_pos.float())
            found["position_rank"] = _told(model, rank, (), "dimensions", "effective rank of the position embedding")
    if held_out is not None:
        losses = loss_by_position(model, held_out)
        found["loss"] = _told(model, losses, ("pos",), "nats", "held-out loss by position")
        score = in_context(losses)
        if score is not None:
            found["in_context_score"] = _told(model, score, (), "nats", "in-context-learning score")
        if bytes_per_token is not None:
            bits = {"bits_per_byte": losses.nanmean().item(), "in_context_bits_per_byte": score}
            found |= {
                name: _told(model, nats / math.log(2) / bytes_per_token, (), "bits per byte", name.replace("_", " "))
                for name, nats in bits.items()
                if nats is not None
            }
    return found


@torch.no_grad()
def loss_by_position(model: Any, batch: Batch) -> Float[Tensor, " pos"]:
    """The mean loss of each position's targets, in nats; NaN where there are none."""
    n_pos, device = batch.tokens.shape[1], model.device
    losses = torch.empty(batch.tokens.shape, dtype=torch.float64)
    for rows in torch.arange(len(losses)).split(max(1, LOGITS // (n_pos * model.config.vocab_out))):
        inputs = [part[rows].to(device) for part in (batch.source, batch.tokens) if part is not None]
        logits, targets = model(*inputs).flatten(0, 1), batch.targets[rows].to(device).flatten()
        wide = logits if logits.dtype == torch.float64 else logits.float()
        found = F.cross_entropy(wide, targets, ignore_index=IGNORED, reduction="none")
        losses[rows] = found.view(-1, n_pos).double().cpu()
    return losses.sum(0) / (batch.targets != IGNORED).sum(0)


def in_context(losses: Float[Tensor, " pos"]) -> float | None:
    """Late loss minus early loss; None where the sequences have no targets there."""
    n = len(losses)
    early, late = (losses[round(a * n) : max(round(a * n) + 1, round(b * n))] for a, b in (EARLY, LATE))
    found = (late.nanmean() - early.nanmean()).item()
    return None if np.isnan(found) else found


class Probed:
    """The Measurements of the steps of a run.

    Args:
        folder: Where they lie, a file each; None: only in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._parts: dict[str, dict[int, Measurement]] = {}

    def take_up(self, step: int) -> None:
        """Reads what was measured up to a step."""
        for path in sorted(self.folder.glob("*.nc")) if self.folder is not None and self.folder.is_dir() else []:
            found = Measurement.load(path)
            labels = [int(label) for label in found.dataset["step"].values if label <= step]
            self._parts[path.stem] = {label: found.sel(step=label) for label in labels}

    def add(self, step: int, found: Mapping[str, Measurement]) -> None:
        """Takes in what was measured at a step."""
        for name, measured in found.items():
            self._parts.setdefault(name, {})[step] = measured

    def save(self) -> None:
        """Writes what there is into the folder."""
        if self.folder is not None:
            for name, measured in self.measurements().items():
                measured.save(self.folder / f"{name}.nc")

    @property
    def steps(self) -> set[int]:
        """Steps at which something was measured."""
        return {step for parts in self._parts.values() for step in parts}

    def measurements(self) -> dict[str, Measurement]:
        """Each over the steps: `[step …]`."""
        return {name: self._stacked(name) for name in sorted(self._parts)}

    def _stacked(self, name: str) -> Measurement:
        return Measurement.stacked("step", self._parts[name])


def _roles(model: HookedTransformer, settings: Probes, seed: int) -> dict[str, Measurement]:
    tokens = repeated_tokens(model, seq_len=settings.seq_len, batch=settings.batch, seed=seed)
    with warnings.catch_warnings():  # a model that has just begun rests anywhere
        warnings.simplefilter("ignore", MisreadWarning)
        scores = role_scores(model, tokens)
    return {"head_roles": scores.score, "head_roles_control": scores.control}


def _told(model: Any, values: Any, dims: tuple[str, ...], unit: str, name: str) -> Measurement:
    record = record_of(model, task=name) if isinstance(model, HookedTransformer) else Record(task=name)
    return Measurement(values, dims, unit=unit, record=record, name=name)
