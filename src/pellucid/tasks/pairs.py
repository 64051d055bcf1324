"""Pairs of prompts: the clean one, which the behaviour shows on, and a corrupted one of as many tokens.

In: token ids, text with positions named in it, or a file. Out: one value with both sides padded alike, the answers, and
positions by name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.hooks.index import plain
from pellucid.text.batch import padded

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

NONE = -1
"""Fills up rows of answers."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Clean and corrupted prompts, aligned position by position."""

    clean: Int[Tensor, "batch pos"]
    """Padded on the right."""
    corrupted: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """True at real tokens."""
    answer: Int[Tensor, "batch k"] | None = None
    """Right answers; a row with fewer of them is filled with -1."""
    wrong: Int[Tensor, "batch k_wrong"] | None = None
    """Wrong answers, likewise."""
    positions: Mapping[str, Int[Tensor, " batch"]] = field(default_factory=dict)
    """Positions by name, for each prompt; `end` is each one's own last token."""
    group: tuple[str, ...] | None = None
    """What kind each pair is of."""
    frame: tuple[str, ...] | None = None
    """What template each pair was made from: pairs of one frame are not independent."""
    text: tuple[tuple[str, str], ...] | None = None
    """Both prompts as text, where they were given so."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> "Pairs":
        """Some of the pairs, in this order; one may come several times."""
        index = [rows] if isinstance(rows, int) else list(range(len(self)))[rows] if isinstance(rows, slice) else rows
        tensors = {name: getattr(self, name) for name in ("clean", "corrupted", "mask", "answer", "wrong")}
        chosen = {name: None if x is None else x[list(index)] for name, x in tensors.items()}
        positions = {name: places[list(index)] for name, places in self.positions.items()}
        kept = {name: getattr(self, name) for name in ("group", "frame", "text")}
        told = {name: None if x is None else tuple(x[i] for i in index) for name, x in kept.items()}
        return replace(self, **chosen, positions=positions, **told)

    def to(self, device: torch.device | str) -> "Pairs":
        """The same pairs on a device."""
        tensors = {name: getattr(self, name) for name in ("clean", "corrupted", "mask", "answer", "wrong")}
        moved = {name: None if x is None else x.to(device) for name, x in tensors.items()}
        return replace(self, **moved, positions={name: places.to(device) for name, places in self.positions.items()})

    @property
    def labels(self) -> dict[str, tuple[str, list[str]]]:
        """What each pair belongs to, group and frame, as coordinates of a Measurement over prompts."""
        told = {"group": self.group, "frame": self.frame}
        return {name: ("prompt", list(labels)) for name, labels in told.items() if labels is not None}

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens of each prompt."""
        return self.mask.sum(1)

    @classmethod
    def from_tokens(
        cls,
        clean: Any,
        corrupted: Any,
        *,
        answer: Any = None,
        wrong: Any = None,
        positions: Mapping[str, Any] | None = None,
        group: str | Sequence[str] | None = None,
        frame: str | Sequence[str] | None = None,
    ) -> "Pairs":
        """Pairs of token ids.

        Args:
            clean: ``[batch pos]``, one prompt ``[pos]``, or lists of ids, which may differ in length.
            corrupted: As many prompts, each as long as its clean one.
            answer: Right answers, token ids: one for all, ``[batch]``, ``[batch k]``, or a list of several for each.
            wrong: Wrong answers, likewise.
            positions: Positions by name: one for all, or ``[batch]``; a negative one counts from its prompt's end.
            group: What a pair belongs to; one name for all, or one for each.
            frame: What template a pair comes from, likewise; intervals then go by frames.

        Raises:
            ArgumentError: The prompts cannot be aligned; numbers that do not fit them.
            TokenError: What is no token id.

        Example:
            >>> pairs = Pairs.from_tokens([[5, 6, 7], [5, 6]], [[5, 8, 7], [9, 6]], answer=[1, 2], positions={"odd": 1})
            >>> pairs.lengths.tolist(), pairs.positions["end"].tolist()
            ([3, 2], [2, 1])
        """
        sides = {"clean": _rows("clean", clean), "corrupted": _rows("corrupted", corrupted)}
        n = _check_aligned(*sides.values())
        both = [padded(rows, pad_id=None, side="right") for rows in sides.values()]
        lengths = [len(row) for row in sides["clean"]]
        places = {name: _places(name, given, lengths) for name, given in (positions or {}).items()}
        end = torch.tensor(lengths) - 1
        if not torch.equal(places.pop("end", end), end):
            raise ArgumentError("the position end is each prompt's own last token; take another name for yours")
        return cls(
            clean=both[0].tokens,
            corrupted=both[1].tokens,
            mask=both[0].mask,
            answer=None if answer is None else _answers("answer", answer, n),
            wrong=None if wrong is None else _answers("wrong", wrong, n),
            positions={**places, "end": end},
            group=_names("group", group, n),
            frame=_names("frame", frame, n),
        )

    @classmethod
    def from_text(
        cls,
        tokenizer: "Tokenizer",
        clean: str | Sequence[str],
        corrupted: str | Sequence[str],
        *,
        answer: Any = None,
        wrong: Any = None,
        group: str | Sequence[str] | None = None,
        frame: str | Sequence[str] | None = None,
        prepend_bos: bool | None = None,
    ) -> "Pairs":
        """Pairs of texts, in which positions may be named: ``"John and [subject: Mary] went"``.

        A named position is the last token of what stands in its brackets, and the same on both sides. ``[[`` stands for
        a bracket.

        Args:
            tokenizer: Of the model that will read them.
            clean: One text, or several.
            corrupted: As many.
            answer: Text that is one token: one for all, one for each, or a list of several for each.
            wrong: Likewise.
            group: As for `from_tokens`.
            frame: As for `from_tokens`.
            prepend_bos: None: as the tokenizer's policy says.

        Raises:
            TokenError: An answer is not one token, or a pair cannot be aligned; the tokens are shown.
            ArgumentError: Brackets that cannot be read.
        """
        from pellucid.tasks.marked import tokenized

        clean, corrupted = ([side] if isinstance(side, str) else list(side) for side in (clean, corrupted))
        if len(clean) != len(corrupted):
            raise ArgumentError(f"clean and corrupted must be as many texts, got {len(clean)} and {len(corrupted)}")
        rows = [tokenized(tokenizer, *both, prepend_bos=prepend_bos) for both in zip(clean, corrupted, strict=True)]
        names = set(rows[0].positions) if rows else set()
        for i, row in enumerate(rows):
            if set(row.positions) != names:
                raise ArgumentError(
                    f"all prompts must name the same positions, got {sorted(names)} in the first and "
                    f"{sorted(row.positions)} in prompt {i}"
                )
        made = cls.from_tokens(
            [row.clean for row in rows],
            [row.corrupted for row in rows],
            answer=None if answer is None else _single("answer", tokenizer, answer, len(rows)),
            wrong=None if wrong is None else _single("wrong", tokenizer, wrong, len(rows)),
            positions={name: [row.positions[name] for row in rows] for name in sorted(names)},
            group=group,
            frame=frame,
        )
        return replace(made, text=tuple(row.text for row in rows))

    @classmethod
    def from_file(cls, path: str | Path, tokenizer: "Tokenizer") -> "Pairs":
        """Pairs from a CSV or JSONL file with the columns clean, corrupted, answer, wrong, group and frame.

        The texts are those of `from_text`. Several answers are parted by ``|``, in JSONL they may be a list.

        Args:
            path: Of the file.
            tokenizer: Of the model that will read them.

        Raises:
            CheckpointError: The file cannot be read; a column or a cell is missing, or unknown.
            TokenError: As for `from_text`.
        """
        from pellucid.tasks.files import read_pairs

        columns = read_pairs(path)
        more: dict[str, Any] = {name: columns.get(name) for name in ("answer", "wrong", "group", "frame")}
        return cls.from_text(tokenizer, columns["clean"], columns["corrupted"], **more)

    def with_answers(self, answer: Any = None, wrong: Any = None) -> "Pairs":
        """The same prompts with other answers, token ids as for `from_tokens`."""
        given = {"answer": answer, "wrong": wrong}
        return replace(self, **{side: None if x is None else _answers(side, x, len(self)) for side, x in given.items()})


def _rows(side: str, given: Any) -> list[list[int]]:
    given = given.tolist() if isinstance(given, Tensor | np.ndarray) else list(given)
    rows = [given] if given and not isinstance(given[0], list | tuple | Tensor | np.ndarray) else given
    found = [_ids(side, row) for row in rows]
    for i, row in enumerate(found):
        if not row:
            raise ArgumentError(f"a prompt must have at least one token, prompt {i} of {side} has none")
    return found


def _ids(what: str, row: Any) -> list[int]:
    ids = [plain(i, f"token ids of {what}") for i in (row.tolist() if hasattr(row, "tolist") else list(row))]
    for i in ids:
        if not isinstance(i, int) or i < 0:
            raise TokenError(f"token ids of {what} must be 0 or more, got {i!r}; from_text takes text")
    return ids


def _check_aligned(clean: list[list[int]], corrupted: list[list[int]]) -> int:
    if len(clean) != len(corrupted) or not clean:
        raise ArgumentError(
            f"clean and corrupted must be as many prompts, one at least, got {len(clean)} and {len(corrupted)}"
        )
    for i, both in enumerate(zip(clean, corrupted, strict=True)):
        if len(both[0]) != len(both[1]):
            raise ArgumentError(
                f"clean and corrupted must have as many tokens, to be aligned by position, got {len(both[0])} and "
                f"{len(both[1])} in prompt {i}: {both[0]} and {both[1]}"
            )
    return len(clean)


def _places(name: str, given: Any, lengths: Sequence[int]) -> Int[Tensor, " batch"]:
    given = plain(given, f"the position {name!r}")
    places = given if isinstance(given, list) else [given] * len(lengths)
    if not isinstance(name, str) or len(places) != len(lengths):
        raise ArgumentError(
            f"a position must have a name, and one place for all or each of {len(lengths)} prompts, got {name!r}: "
            f"{given!r}"
        )
    for i, (place, length) in enumerate(zip(places, lengths, strict=True)):
        if not isinstance(place, int) or not -length <= place < length:
            raise ArgumentError(
                f"the position {name!r} must lie in 0..{length - 1} in prompt {i}, which has {length} tokens, "
                f"got {place!r}"
            )
    return torch.tensor([place % length for place, length in zip(places, lengths, strict=True)])


def _names(what: str, given: str | Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    names = [given] * n if isinstance(given, str) else given
    if names is None:
        return None
    if len(names) != n or not all(isinstance(name, str) for name in names):
        raise ArgumentError(f"{what} must be one name, or one for each of {n} pairs, got {names!r}")
    return tuple(names)


def _answers(what: str, given: Any, n: int) -> Int[Tensor, "batch k"]:
    given = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    rows = list(given) if isinstance(given, Sequence) else [given] * n
    if len(rows) != n:
        raise ArgumentError(f"{what} must be one for all, or one for each of {n} prompts, got {len(rows)}")
    found = [_ids(what, row) if isinstance(row, Sequence | Tensor | np.ndarray) else _ids(what, [row]) for row in rows]
    if not all(found):
        raise ArgumentError(f"{what} must be one token at least for each prompt, got {found}")
    width = max(map(len, found))
    return torch.tensor([row + [NONE] * (width - len(row)) for row in found])


def _single(what: str, tokenizer: "Tokenizer", given: Any, n: int) -> list[list[int]]:
    rows = [given] * n if isinstance(given, str) else list(given)
    try:
        return [[tokenizer.single(text) for text in ([row] if isinstance(row, str) else row)] for row in rows]
    except TokenError as error:
        raise TokenError(f"{what} must be one token: {error}") from error
