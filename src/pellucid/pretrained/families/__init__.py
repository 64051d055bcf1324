"""The families that can be read, one file each: configuration fields and weight names as data."""

from pellucid.base.errors import CheckpointError
from pellucid.pretrained.families.gpt2 import GPT2
from pellucid.pretrained.families.llama import LLAMA
from pellucid.pretrained.family import Family

FAMILIES: dict[str, Family] = {family.name: family for family in (GPT2, LLAMA)}
"""By the `model_type` of a `config.json`."""


def family_of(model_type: object, where: str) -> Family:
    """The family of a `model_type`.

    Raises:
        CheckpointError: There is none.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError(
            f"{where}: model_type must be one of {', '.join(sorted(FAMILIES))} (or the file one of Pellucid's own), "
            f"got {model_type!r}"
        )
    return FAMILIES[model_type]
