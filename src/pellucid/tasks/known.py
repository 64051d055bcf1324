"""The tasks by name: to add one, write its file and put its line here."""

from pathlib import Path
from typing import Any

from pellucid.base.errors import UnknownNameError, nearest
from pellucid.tasks.capitals import Capitals
from pellucid.tasks.contractions import Contractions
from pellucid.tasks.docstring import Docstring
from pellucid.tasks.gendered_pronouns import GenderedPronouns
from pellucid.tasks.greater_than import GreaterThan
from pellucid.tasks.ioi import IOI
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.repeated_tokens import RepeatedTokensTask
from pellucid.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    made.name: made
    for made in (IOI, RepeatedTokensTask, GreaterThan, Docstring, GenderedPronouns, Capitals, Contractions)
}
"""Every task by its name."""


def named(name: str | Path, tokenizer: Any = None) -> Task:
    """A task by its name, or the pairs of a file as one.

    Args:
        name: One of `TASKS`, or a CSV or JSONL file as for `Pairs.from_file`.
        tokenizer: Of the model that will read a file's texts.

    Raises:
        UnknownNameError: It is neither.
        CheckpointError: The file cannot be read.
        TokenError: Its texts cannot be paired.

    Example:
        >>> named("ioi").about
        'which of two names was not repeated'
    """
    if str(name) in TASKS:
        return TASKS[str(name)]()
    path = Path(name)
    if path.suffix in (".csv", ".jsonl"):
        return Task.from_pairs(Pairs.from_file(path, tokenizer), name=path.stem)
    raise UnknownNameError(
        f"a task must be one of {', '.join(TASKS)}, or a .csv or .jsonl file of pairs, got {str(name)!r}"
        f"{nearest(str(name), TASKS)}"
    )
