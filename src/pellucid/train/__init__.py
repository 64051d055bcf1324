"""Making models: a recipe becomes a trained model, and a folder that tells how it came about."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.train.recipe import Recipe, bundled_recipes, read_recipe, recipe_of
    from pellucid.train.run import Run, train
    from pellucid.train.sequences import MostFrequentToken, PeriodicSequences, TokenSet, TranslatedSequences
    from pellucid.train.text import Text

_HOME_OF = {
    "MostFrequentToken": "pellucid.train.sequences",
    "PeriodicSequences": "pellucid.train.sequences",
    "Recipe": "pellucid.train.recipe",
    "Run": "pellucid.train.run",
    "Text": "pellucid.train.text",
    "TokenSet": "pellucid.train.sequences",
    "TranslatedSequences": "pellucid.train.sequences",
    "bundled_recipes": "pellucid.train.recipe",
    "read_recipe": "pellucid.train.recipe",
    "recipe_of": "pellucid.train.recipe",
    "train": "pellucid.train.run",
}

__all__ = [
    "MostFrequentToken",
    "PeriodicSequences",
    "Recipe",
    "Run",
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
