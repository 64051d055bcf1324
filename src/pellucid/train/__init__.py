"""Making models: a recipe becomes a trained model, and a folder that tells how it came about."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.train.checkpoints import Checkpoints
    from pellucid.train.optimiser import Optimiser
    from pellucid.train.probes import Probes
    from pellucid.train.recipe import Recipe, bundled_recipes, read_recipe, recipe_of
    from pellucid.train.run import Run, train
    from pellucid.train.schedule import Schedule
    from pellucid.train.sequences import MostFrequentToken, PeriodicSequences, TokenSet, TranslatedSequences
    from pellucid.train.start import Start
    from pellucid.train.text import Text

_HOME_OF = {
    "Checkpoints": "pellucid.train.checkpoints",
    "MostFrequentToken": "pellucid.train.sequences",
    "Optimiser": "pellucid.train.optimiser",
    "PeriodicSequences": "pellucid.train.sequences",
    "Probes": "pellucid.train.probes",
    "Recipe": "pellucid.train.recipe",
    "Run": "pellucid.train.run",
    "Schedule": "pellucid.train.schedule",
    "Start": "pellucid.train.start",
    "Text": "pellucid.train.text",
    "TokenSet": "pellucid.train.sequences",
    "TranslatedSequences": "pellucid.train.sequences",
    "bundled_recipes": "pellucid.train.recipe",
    "read_recipe": "pellucid.train.recipe",
    "recipe_of": "pellucid.train.recipe",
    "train": "pellucid.train.run",
}

__all__ = [
    "Checkpoints",
    "MostFrequentToken",
    "Optimiser",
    "PeriodicSequences",
    "Probes",
    "Recipe",
    "Run",
    "Schedule",
    "Start",
    "Text",
    "TokenSet",
    "TranslatedSequences",
    "bundled_recipes",
    "read_recipe",
    "recipe_of",
    "train",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
