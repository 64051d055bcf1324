"""Tasks whose prompts come from frames: sentences with places for words, drawn anew for each prompt.

In: frames, lists of words, a seed. Out: pairs. What words a tokenizer has as single tokens is looked at first, so that
clean and corrupted prompts are as long as each other, and answers are single tokens *in this model*. Prompts of one
frame are not independent: pairs keep the frame of each, and statistics go by frames.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task, said, word_token


@dataclass(frozen=True)
class Drawn:
    """One prompt, both sides, in the marked text of `Pairs.from_text`; answers are words."""

    clean: str
    corrupted: str
    answer: str | Sequence[str]
    wrong: str | Sequence[str]
    glued: bool = False
    """Whether answers follow the prompt without a space."""


@dataclass(frozen=True)
class Frame:
    """A sentence with places for words."""

    name: str
    text: str


class TemplateTask(Task):
    """Subclasses give `frames`, `groups`, `words` and `_draw`."""

    frames: tuple[Frame, ...]
    words: Mapping[str, Sequence[str]]
    """Lists of words by name; of each, those that are single tokens in the model are used."""
    least: Mapping[str, int] = {}
    """How many of a list there must be; 1 where it is not told."""
    n_default: int = 60

    def pairs(self, tokenizer: Any, *, n: int | None = None, seed: int = 0, group: str | None = None) -> Pairs:
        """Some pairs: groups and frames take turns, words are drawn.

        Args:
            tokenizer: Of the model that will read them.
            n: How many; None: `n_default`.
            seed: The same seed gives the same pairs, and fewer of them are the first of more.
            group: Of this kind only.

        Raises:
            TokenError: The tokenizer has too few of the words as single tokens, or there is none; pieces are shown.
            UnknownNameError: There is no such group.
            ArgumentError: `n` is below 1.
        """
        groups, count = self._group(group) or ("",), self.n_default if n is None else n
        if count < 1:
            raise ArgumentError(f"n must be 1 or more, got {n}")
        words = self.said_words(tokenizer)
        draws = random.Random(f"{self.name} {seed}")
        frames = self._frames(tokenizer)
        order = draws.sample(frames, len(frames))
        chosen = [(order[i // len(groups) % len(order)], groups[i % len(groups)]) for i in range(count)]
        drawn = [self._draw(words, frame, kind, draws) for frame, kind in chosen]
        made = Pairs.from_text(
            tokenizer,
            [one.clean for one in drawn],
            [one.corrupted for one in drawn],
            group=[kind for _, kind in chosen] if self.groups else None,
            frame=[frame.name for frame, _ in chosen] if len(frames) > 1 else None,
        )
        answers = {side: [_ids(tokenizer, one, side) for one in drawn] for side in ("answer", "wrong")}
        return self._finished(made.with_answers(**answers))

    def said_words(self, tokenizer: Any) -> dict[str, list[str]]:
        """The words of each list that are single tokens.

        Raises:
            TokenError: Too few are, or there is no tokenizer.
        """
        if tokenizer is None:
            raise TokenError(f"{self.name} is made of text, and the model has no tokenizer; set model.tokenizer")
        return {
            name: said(tokenizer, words, what=f"{name} of {self.name}", least=self.least.get(name, 1))
            for name, words in self.words.items()
        }

    def _frames(self, tokenizer: Any) -> list[Frame]:
        """The frames that this tokenizer can write; all of them, where it knows every text."""
        kept, errors = [], []
        for frame in self.frames:
            try:
                tokenizer.encode(frame.text.format_map(_Blank()))
            except TokenError as error:
                errors.append(str(error))
            else:
                kept.append(frame)
        if not kept:
            raise TokenError(f"{self.name} needs a tokenizer that can write its sentences, got: {errors[0]}")
        return kept

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        raise NotImplementedError

    def _finished(self, pairs: Pairs) -> Pairs:
        """The pairs, with whatever a task adds."""
        return pairs


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def _ids(tokenizer: Any, drawn: Drawn, side: str) -> list[int]:
    words = getattr(drawn, side)
    read = tokenizer.single if drawn.glued else partial(word_token, tokenizer)
    return [read(word) for word in ([words] if isinstance(words, str) else words)]


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def numbered(texts: Sequence[str]) -> tuple[Frame, ...]:
    """Frames that bear their numbers as names."""
    return tuple(Frame(f"frame {number:02}", text) for number, text in enumerate(texts))
