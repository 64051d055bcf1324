"""What is measured on each prompt: logits at some of its positions, and what they say of its answers.

A metric is a value. It says which positions it looks at and which tokens it asks about, and how one row of logits
becomes a number; the metric of a prompt is the mean over its rows. So a sweep can make it from a few columns of `W_U`,
or from one row of logits after the other, and never hold more.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.tasks.pairs import NONE, Pairs


@dataclass(frozen=True)
class RowMetric:
    """The mean, over some positions of a prompt, of what each row of logits says.

    Args:
        at: The name of a position, or several.
    """

    at: str | tuple[str, ...] = "end"

    name: ClassVar[str]
    unit: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """What pairs must have."""
    needs_reference: ClassVar[bool] = False
    """Whether it compares with the clean run's logits."""

    def check(self, pairs: Pairs) -> None:
        """Whether the pairs have what is measured.

        Raises:
            ArgumentError: An answer is missing.
            UnknownNameError: A position is.
        """
        for what in self.needs:
            if getattr(pairs, what) is None:
                raise ArgumentError(f"{self.name} needs pairs with {what}, these have none; give {what}=…")
        self.rows(pairs)

    def rows(self, pairs: Pairs) -> Int[Tensor, "batch k"]:
        """The positions that it looks at; -1 where a prompt has fewer."""
        names = (self.at,) if isinstance(self.at, str) else self.at
        for name in names:
            if name not in pairs.positions:
                raise UnknownNameError(
                    f"at must name positions of the pairs, got {name!r}{nearest(name, pairs.positions)}"
                )
        return torch.stack([pairs.positions[name] for name in names], dim=1)

    def targets(self, pairs: Pairs) -> Int[Tensor, "batch k n"]:
        """The tokens that each row is asked about; -1 for none."""
        asked = [getattr(pairs, what) for what in self.needs]
        k = self.rows(pairs).shape[1]
        if not asked:
            return torch.empty(len(pairs), k, 0, dtype=torch.long)
        return torch.cat(asked, dim=1)[:, None].expand(-1, k, -1)

    def score(
        self,
        logits: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, "row n"],
        reference: Float[Tensor, "row d_vocab"] | None = None,
    ) -> Float[Tensor, " row"]:
        """What each row of logits says; NaN where one of them is no number."""
        raise NotImplementedError

    def __call__(
        self,
        logits: Float[Tensor, "batch pos d_vocab"],
        pairs: Pairs,
        reference: Float[Tensor, "batch pos d_vocab"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """The metric of each prompt.

        Args:
            logits: Of a run of the pairs.
            pairs: Of which.
            reference: Logits of the clean run, for a metric that compares with them.

        Raises:
            ArgumentError: The pairs lack what is measured, or the reference is missing.
        """
        self.check(pairs)
        if self.needs_reference and reference is None:
            raise ArgumentError(f"{self.name} compares with the clean run; give its logits as reference")
        rows, targets = self.rows(pairs).to(logits.device), self.targets(pairs).to(logits.device)
        here = rows >= 0
        beside = None if reference is None else _picked(reference, rows, here)
        scores = self.score(_picked(logits, rows, here), targets[here], beside)
        found = torch.zeros(rows.shape, dtype=scores.dtype, device=scores.device)
        found[here] = scores
        return found.sum(1) / here.sum(1)


class TokenMetric(RowMetric):
    """A metric that needs the logits of its tokens, and at most their normaliser beside."""

    needs_log_z: ClassVar[bool] = False

    def combine(
        self, picked: Float[Tensor, "row n"], targets: Int[Tensor, "row n"], log_z: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        """What the logits of each row's tokens say.

        Args:
            picked: The logits; anything where there is no token.
            targets: The tokens; -1 for none.
            log_z: The logarithm of the sum of the exponentials of all logits, where that is needed.
        """
        raise NotImplementedError

    def score(
        self,
        logits: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, "row n"],
        reference: Float[Tensor, "row d_vocab"] | None = None,
    ) -> Float[Tensor, " row"]:
        """What each row of logits says."""
        wide = _wide(logits)
        picked = wide.gather(1, targets.clamp(min=0))
        return self.combine(picked, targets, wide.logsumexp(1) if self.needs_log_z else None)


@dataclass(frozen=True)
class Logit(TokenMetric):
    """The mean logit of the right answers."""

    name: ClassVar[str] = "Logit"
    unit: ClassVar[str] = "logits"
    needs: ClassVar[tuple[str, ...]] = ("answer",)

    def combine(
        self, picked: Float[Tensor, "row n"], targets: Int[Tensor, "row n"], log_z: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        """The mean of those that are there."""
        return _mean(picked, targets != NONE)


@dataclass(frozen=True)
class LogitDiff(TokenMetric):
    """The mean logit of the right answers minus that of the wrong ones."""

    name: ClassVar[str] = "LogitDiff"
    unit: ClassVar[str] = "logits"
    needs: ClassVar[tuple[str, ...]] = ("answer", "wrong")

    def targets(self, pairs: Pairs) -> Int[Tensor, "batch k n"]:
        """Right answers, then wrong ones, each side as wide as the wider of both."""
        if pairs.answer is None or pairs.wrong is None:
            return super().targets(pairs)
        width = max(pairs.answer.shape[1], pairs.wrong.shape[1])
        sides = [torch.nn.functional.pad(x, (0, width - x.shape[1]), value=NONE) for x in (pairs.answer, pairs.wrong)]
        return torch.cat(sides, dim=1)[:, None].expand(-1, self.rows(pairs).shape[1], -1)

    def combine(
        self, picked: Float[Tensor, "row n"], targets: Int[Tensor, "row n"], log_z: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        """Mean minus mean."""
        (right, wrong), (has_right, has_wrong) = (x.chunk(2, dim=1) for x in (picked, targets != NONE))
        return _mean(right, has_right) - _mean(wrong, has_wrong)


@dataclass(frozen=True)
class ProbDiff(LogitDiff):
    """The probability of all right answers together, minus that of all wrong ones (Hanna et al. 2023)."""

    name: ClassVar[str] = "ProbDiff"
    unit: ClassVar[str] = "fraction"
    needs_log_z: ClassVar[bool] = True

    def combine(
        self, picked: Float[Tensor, "row n"], targets: Int[Tensor, "row n"], log_z: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        """Sum minus sum."""
        normaliser = picked.logsumexp(1) if log_z is None else log_z
        share = torch.where(targets == NONE, 0.0, (picked - normaliser[:, None]).exp())
        right, wrong = share.chunk(2, dim=1)
        return right.sum(1) - wrong.sum(1)


@dataclass(frozen=True)
class LogProb(TokenMetric):
    """The mean log-probability of the right answers, in nats."""

    name: ClassVar[str] = "LogProb"
    unit: ClassVar[str] = "nats"
    needs: ClassVar[tuple[str, ...]] = ("answer",)
    needs_log_z: ClassVar[bool] = True

    def combine(
        self, picked: Float[Tensor, "row n"], targets: Int[Tensor, "row n"], log_z: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        """Mean logit minus normaliser."""
        found = _mean(picked, targets != NONE)
        return found if log_z is None else found - log_z


@dataclass(frozen=True)
class Loss(TokenMetric):
    """The loss in nats, mean over all tokens of the clean prompt but the first, or over those after named positions."""

    at: str | tuple[str, ...] = ()

    name: ClassVar[str] = "Loss"
    unit: ClassVar[str] = "nats"
    needs_log_z: ClassVar[bool] = True

    def check(self, pairs: Pairs) -> None:
        """Whether there is a token to predict.

        Raises:
            ArgumentError: A prompt has a single token, or a position has none after it.
        """
        rows = self.rows(pairs)
        if bool((rows >= pairs.lengths[:, None] - 1).any()) or bool((rows < 0).all(1).any()):
            raise ArgumentError("Loss needs a token after each position that it looks at, got a prompt's last one")

    def rows(self, pairs: Pairs) -> Int[Tensor, "batch k"]:
        """All positions but the last, or those named."""
        if self.at:
            return super().rows(pairs)
        places = torch.arange(pairs.clean.shape[1] - 1, device=pairs.clean.device).expand(len(pairs), -1)
        return torch.where(places < pairs.lengths[:, None] - 1, places, NONE)

    def targets(self, pairs: Pairs) -> Int[Tensor, "batch k n"]:
        """The token that follows."""
        after = (self.rows(pairs) + 1).clamp(max=pairs.clean.shape[1] - 1)
        return pairs.clean.gather(1, after)[..., None]

    def combine(
        self, picked: Float[Tensor, "row n"], targets: Int[Tensor, "row n"], log_z: Float[Tensor, " row"] | None
    ) -> Float[Tensor, " row"]:
        """Normaliser minus logit."""
        return -picked[:, 0] if log_z is None else log_z - picked[:, 0]


@dataclass(frozen=True)
class Rank(RowMetric):
    """How many tokens score higher than the best right answer: 0 at the top."""

    name: ClassVar[str] = "Rank"
    unit: ClassVar[str] = "tokens"
    needs: ClassVar[tuple[str, ...]] = ("answer",)

    def score(
        self,
        logits: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, "row n"],
        reference: Float[Tensor, "row d_vocab"] | None = None,
    ) -> Float[Tensor, " row"]:
        """How many score higher."""
        wide = _wide(logits)
        best = wide.gather(1, targets.clamp(min=0)).masked_fill(targets == NONE, -torch.inf).max(1, keepdim=True).values
        return _if_numbers(wide, (wide > best).sum(1).to(wide.dtype))


@dataclass(frozen=True)
class Accuracy(RowMetric):
    """1 where the most probable token is a right answer, else 0."""

    name: ClassVar[str] = "Accuracy"
    unit: ClassVar[str] = "fraction"
    needs: ClassVar[tuple[str, ...]] = ("answer",)

    def score(
        self,
        logits: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, "row n"],
        reference: Float[Tensor, "row d_vocab"] | None = None,
    ) -> Float[Tensor, " row"]:
        """Whether it is."""
        wide = _wide(logits)
        return _if_numbers(wide, (wide.argmax(1, keepdim=True) == targets).any(1).to(wide.dtype))


@dataclass(frozen=True)
class KL(RowMetric):
    """The Kullback–Leibler divergence of what is predicted from what the clean run predicts, in nats."""

    name: ClassVar[str] = "KL"
    unit: ClassVar[str] = "nats"
    needs_reference: ClassVar[bool] = True

    def score(
        self,
        logits: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, "row n"],
        reference: Float[Tensor, "row d_vocab"] | None = None,
    ) -> Float[Tensor, " row"]:
        """KL(reference ‖ logits)."""
        if reference is None:
            raise ArgumentError("KL compares with the clean run; give its logits as reference")
        theirs, ours = _wide(reference).log_softmax(1), _wide(logits).log_softmax(1)
        gap = torch.where(theirs == -torch.inf, 0.0, theirs - ours)  # what has no probability counts nothing
        return (theirs.exp() * gap).sum(1)


METRICS: dict[str, type[RowMetric]] = {
    made.name: made for made in (LogitDiff, Logit, LogProb, ProbDiff, Rank, KL, Accuracy, Loss)
}
"""Every metric by its name."""


def default_metric(pairs: Pairs) -> RowMetric:
    """`LogitDiff`; `Logit` where no wrong answer is told, `Loss` where there is no answer."""
    if pairs.answer is None:
        return Loss()
    return Logit() if pairs.wrong is None else LogitDiff()


def _picked(
    logits: Float[Tensor, "batch pos d_vocab"], rows: Int[Tensor, "batch k"], here: Bool[Tensor, "batch k"]
) -> Float[Tensor, "row d_vocab"]:
    prompts = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    return logits[prompts[here], rows[here]]


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def _mean(x: Float[Tensor, "row n"], there: Bool[Tensor, "row n"]) -> Float[Tensor, " row"]:
    return torch.where(there, x, 0.0).sum(1) / there.sum(1)


def _if_numbers(logits: Float[Tensor, "row d_vocab"], found: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
    return found.masked_fill(logits.isnan().any(1), torch.nan)
