"""How a number was made, so that it can be made again."""

import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pellucid.base.errors import ArgumentError, nearest

VERSION = "0.1.0"


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything that must be known to make a result again.

    Example:
        >>> Record(model="toy-induction", seed=3).add(task="induction").task
        'induction'
    """

    model: str | None = None
    """Its name, or the folder it came from."""
    revision: str | None = None
    """The hub's revision, where it came from there."""
    weights_hash: str | None = None
    """SHA-256 of the weights as held; made when a record is first saved."""
    processing: tuple[str, ...] = ()
    """Steps that changed the weights without changing the model's answers, in order."""
    task: str | None = None
    seed: int | None = None
    device: str | None = None
    dtype: str | None = None
    version: str = VERSION
    settings: dict[str, Any] = field(default_factory=dict)
    """Anything else that a result depends on; JSON values only."""

    def __post_init__(self) -> None:
        """Settings become a copy of their own, just as a file would give them back: with lists for tuples."""
        try:
            copied = json.loads(json.dumps(self.settings))
        except (TypeError, ValueError) as error:
            found = f"{self.settings!r}: {error}; give numbers, strings, lists"
            raise ArgumentError(f"settings of a record must be JSON values, got {found}") from error
        object.__setattr__(self, "settings", copied)

    def add(self, **changes: Any) -> "Record":
        """A copy with some fields replaced; `settings` are merged."""
        settings = {**self.settings, **changes.pop("settings", {})}
        return replace(self, **changes, settings=settings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self) | {"processing": list(self.processing)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """The inverse of `to_dict`; a field that an older version did not know has its default.

        Raises:
            ArgumentError: A field that this version does not know.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ArgumentError(
                    f"fields of a record must be known, got {name!r}{nearest(name, known)}; written by "
                    f"version {values.get('version')}, this is {VERSION}"
                )
        return cls(**{**values, "processing": tuple(values.get("processing", ()))})
