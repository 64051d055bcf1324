"""Making models: a recipe becomes a trained model, and a folder that tells how it came about."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.train.checkpoints import Checkpoints
    from pellucid.train.copies import Copies
    from pellucid.train.grid import Grid, grid_of, read_grid
    from pellucid.train.grid_run import GridResult, train_grid
    from pellucid.train.optimiser import Optimiser
    from pellucid.train.probes import Probes
    from pellucid.train.recipe import Recipe, bundled_recipes, read_recipe, recipe_of
    from pellucid.train.run import Run, train
    from pellucid.train.schedule import Schedule
    from pellucid.train.sentences import NameSentences
    from pellucid.train.sequences import MostFrequentToken, PeriodicSequences, TokenSet, TranslatedSequences
    from pellucid.train.start import Start
    from pellucid.train.text import Text

_HOME_OF = {
    "Checkpoints": "pellucid.train.checkpoints",
    "Copies": "pellucid.train.copies",
    "Grid": "pellucid.train.grid",
    "GridResult": "pellucid.train.grid_run",
    "MostFrequentToken": "pellucid.train.sequences",
    "Optimiser": "pellucid.train.optimiser",
    "NameSentences": "pellucid.train.sentences",
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
    "grid_of": "pellucid.train.grid",
    "read_grid": "pellucid.train.grid",
    "read_recipe": "pellucid.train.recipe",
    "recipe_of": "pellucid.train.recipe",
    "train": "pellucid.train.run",
    "train_grid": "pellucid.train.grid_run",
}

__all__ = [
    "Checkpoints",
    "Copies",
    "Grid",
    "GridResult",
    "MostFrequentToken",
    "NameSentences",
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
    "grid_of",
    "read_grid",
    "read_recipe",
    "recipe_of",
    "train",
    "train_grid",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
