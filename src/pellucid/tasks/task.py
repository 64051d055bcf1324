"""What makes pairs of prompts: a behaviour, and the number that says how much of it is there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError, nearest
from pellucid.tasks.metrics import LogitDiff, RowMetric, default_metric
from pellucid.tasks.pairs import Pairs


class Task:
    """A behaviour: pairs of prompts, drawn from a seed, and a metric. To make one, subclass it and give `pairs`."""

    name: str = "a task"
    metric: RowMetric = LogitDiff()
    groups: tuple[str, ...] = ()
    """Kinds of prompts, by name."""
    about: str = ""
    """One line for people."""

    def pairs(self, tokenizer: Any, *, n: int | None = None, seed: int = 0, group: str | None = None) -> Pairs:
        """Some pairs.

        Args:
            tokenizer: Of the model that will read them.
            n: How many; None: as many as the task thinks fit.
            seed: The same seed gives the same pairs.
            group: Of this kind only.

        Raises:
            TokenError: The tokenizer cannot say what the task needs; the tokens are shown.
            UnknownNameError: There is no such group.
        """
        raise NotImplementedError

    @staticmethod
    def from_pairs(pairs: Pairs, *, name: str = "pairs", metric: RowMetric | None = None) -> "Task":
        """Pairs that are there already, as a task.

        Args:
            pairs: All there are; asked for fewer, it gives the first ones.
            name: What it is called in records and reports.
            metric: None: `LogitDiff`; `Logit` where no wrong answer is told, `Loss` where there is no answer.

        Example:
            >>> task = Task.from_pairs(Pairs.from_tokens([[5, 6]], [[5, 7]], answer=1, wrong=2), name="mine")
            >>> len(task.pairs(None, n=1)), task.metric
            (1, LogitDiff(at='end'))
        """
        return _Given(pairs, name, default_metric(pairs) if metric is None else metric)

    def _group(self, group: str | None) -> tuple[str, ...]:
        """The groups that are asked for."""
        if group is None:
            return self.groups
        if group not in self.groups:
            raise UnknownNameError(
                f"group of {self.name} must be one of {', '.join(self.groups) or 'none'}, got {group!r}"
                f"{nearest(group, self.groups)}"
            )
        return (group,)


class _Given(Task):
    def __init__(self, pairs: Pairs, name: str, metric: RowMetric) -> None:
        self.given, self.name, self.metric = pairs, name, metric
        self.groups = tuple(dict.fromkeys(pairs.group or ()))

    def pairs(self, tokenizer: Any, *, n: int | None = None, seed: int = 0, group: str | None = None) -> Pairs:
        """The first ones."""
        found = self.given
        if group is not None:
            wanted = self._group(group)
            found = found[[at for at, name in enumerate(found.group or ()) if name in wanted]]
        if n is not None and not 1 <= n <= len(found):
            raise ArgumentError(f"n must lie in 1..{len(found)}, the pairs that there are, got {n}")
        return found if n is None else found[:n]


def said(tokenizer: Any, words: Sequence[str], *, what: str, least: int) -> list[str]:
    """The words that are single tokens in the midst of a sentence.

    Args:
        tokenizer: Whose.
        words: Without a space in front.
        what: What they are, for the error.
        least: How many there must be.

    Raises:
        TokenError: There are fewer; the pieces of some are shown.
    """
    kept, others = [], []
    for word in words:
        try:
            word_token(tokenizer, word)
        except TokenError as error:
            others.append(str(error))
        else:
            kept.append(word)
    if len(kept) < least:
        shown = "; ".join(reason.rstrip(".") for reason in others[:3])
        raise TokenError(
            f"{least} {what} or more must be single tokens here, got {len(kept)} of {len(words)}: {shown}; "
            "take a model whose vocabulary has them"
        )
    return kept


def word_token(tokenizer: Any, word: str) -> int:
    """The one token that a word is in the midst of a sentence, where most tokenizers put a space in front.

    Raises:
        TokenError: It is several, or unknown; the pieces are shown.
    """
    try:
        return tokenizer.single(f" {word}")
    except TokenError as error:
        try:
            return tokenizer.single(word)
        except TokenError:
            raise error from None


def offset_position(pairs: Pairs, name: str, by: int, new: str) -> Pairs:
    """The same pairs with a position more, some tokens behind another one."""
    return replace(pairs, positions={**pairs.positions, new: pairs.positions[name] + by})
