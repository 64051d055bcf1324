"""What a model's name means: a folder, a bundled model, an alias, or a name on the hub."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pellucid.base.errors import CheckpointError, nearest

ALIASES: dict[str, str] = {
    "gpt2": "gpt2",
    "gpt2-small": "gpt2",
    "gpt2-medium": "gpt2-medium",
    "gpt2-large": "gpt2-large",
    "gpt2-xl": "gpt2-xl",
    "distilgpt2": "distilgpt2",
    "distillgpt2": "distilgpt2",
    "distill-gpt2": "distilgpt2",
    "distil-gpt2": "distilgpt2",
    "gpt2-xs": "distilgpt2",
    "Llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "Llama-2-7b-chat": "meta-llama/Llama-2-7b-chat-hf",
    "Llama-2-13b": "meta-llama/Llama-2-13b-hf",
    "Llama-2-13b-chat": "meta-llama/Llama-2-13b-chat-hf",
    "CodeLlama-7b": "codellama/CodeLlama-7b-hf",
}
"""Short names that people know, and the hub's name of each."""


@dataclass(frozen=True)
class Place:
    """Where a model lies.

    Args:
        name: As it was asked for.
        folder: Where its files are.
        revision: The hub's, where it came from there.
    """

    name: str
    folder: Path
    revision: str | None = None

    @property
    def from_hub(self) -> bool:
        """Whether the files are the hub's cache, which nobody overwrites."""
        return self.revision is not None


def bundled_models() -> list[str]:
    """Names of the models that are part of the package."""
    folder = _bundled()
    return sorted(path.name for path in folder.iterdir() if _is_model(path)) if folder.is_dir() else []


def find(name: str | Path, *, revision: str | None = None) -> Place:
    """The folder that a name means.

    Looked for in this order: a folder that exists, a bundled model, an alias, a name on the hub. A string that is an
    explicit path (absolute, or beginning with `.` or `~`), like a `Path`, is only ever a folder.

    Args:
        name: A folder or a name.
        revision: Branch, tag or commit, for names on the hub.

    Raises:
        CheckpointError: Nothing can be loaded under that name, or it means two models.
    """
    path = Path(name).expanduser()
    text = str(name)
    others = [what for what, there in (("bundled model", bundled_models()), ("alias", ALIASES)) if text in there]
    if isinstance(name, Path) or path.is_absolute() or text.startswith((".", "~")) or (path.exists() and not others):
        return _folder(path, text, revision)
    if _is_model(path):
        raise CheckpointError(
            f"{text!r} must mean one model, it is a folder here and the name of a{'n' * (others[0] == 'alias')} {others[0]}; "
            f"say {'./' + text!r} for the folder, or run elsewhere"
        )
    if "bundled model" in others:
        return _folder(_bundled() / text, text, revision)
    from pellucid.pretrained.hub import download

    folder, found = download(ALIASES.get(text, text), revision=revision)
    return Place(text, folder, found)


def _folder(path: Path, name: str, revision: str | None) -> Place:
    if path.is_file():
        raise CheckpointError(f"a model must be given as its folder, {name} is a file; give the folder that holds it")
    if not path.is_dir():
        known = [*bundled_models(), *ALIASES]
        raise CheckpointError(f"{name} must be a folder that holds a model, it does not exist{nearest(path.name, known)}")
    if not _is_model(path):
        found = ", ".join(sorted(part.name for part in path.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{name} must hold a model: a config.json and its weights; found {found}")
    if revision is not None:
        raise CheckpointError(f"a revision must be of a model on the hub, {name} is a folder; leave revision out")
    return Place(name, path)


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file()


def _bundled() -> Path:
    return Path(str(files("pellucid"))) / "bundled"
