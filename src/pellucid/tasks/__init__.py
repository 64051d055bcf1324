"""What a behaviour is measured on: pairs of prompts, and the number that says how much of it is there."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.tasks.capitals import Capitals
    from pellucid.tasks.docstring import Docstring
    from pellucid.tasks.gendered_pronouns import GenderedPronouns
    from pellucid.tasks.greater_than import GreaterThan
    from pellucid.tasks.ioi import IOI
    from pellucid.tasks.known import TASKS, named
    from pellucid.tasks.pairs import Pairs
    from pellucid.tasks.repeated_tokens import RepeatedTokensTask
    from pellucid.tasks.task import Task

_HOME_OF = {
    "IOI": "pellucid.tasks.ioi",
    "TASKS": "pellucid.tasks.known",
    "Capitals": "pellucid.tasks.capitals",
    "Docstring": "pellucid.tasks.docstring",
    "GenderedPronouns": "pellucid.tasks.gendered_pronouns",
    "GreaterThan": "pellucid.tasks.greater_than",
    "Pairs": "pellucid.tasks.pairs",
    "RepeatedTokensTask": "pellucid.tasks.repeated_tokens",
    "Task": "pellucid.tasks.task",
    "named": "pellucid.tasks.known",
}

__all__ = [
    "IOI",
    "TASKS",
    "Capitals",
    "Docstring",
    "GenderedPronouns",
    "GreaterThan",
    "Pairs",
    "RepeatedTokensTask",
    "Task",
    "named",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
