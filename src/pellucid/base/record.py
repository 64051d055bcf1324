"""How a number was made, so that it can be made again."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

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

    def add(self, **changes: Any) -> "Record":
        """A copy with some fields replaced; `settings` are merged."""
        settings = {**self.settings, **changes.pop("settings", {})}
        return replace(self, **changes, settings=settings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self) | {"processing": list(self.processing)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Record":
        """The inverse of `to_dict`."""
        return cls(**values | {"processing": tuple(values["processing"])})
