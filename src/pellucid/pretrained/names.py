"""What a model's name means: a folder, a bundled model, an alias, or a name on the hub."""

import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pellucid.base.errors import CheckpointError, nearest
from pellucid.pretrained.checkpoints import checkpoints
from pellucid.pretrained.hub import download, is_cached

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
class Location:
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


@dataclass(frozen=True)
class Available:
    """A model that has a name here.

    Args:
        name: What to load it by.
        repository: Its name on the hub; None for a bundled model.
        here: Whether it loads without a network: it is bundled, or in the hub's cache.
        about: What it was trained on, as the card of a bundled model says; None: nothing is said.
    """

    name: str
    repository: str | None
    here: bool
    about: str | None = None


def available() -> list[Available]:
    """Every model that has a name: the bundled ones, then the aliases. Any other name on the hub loads too."""
    bundled = [Available(name, None, True, _about(name)) for name in bundled_models()]
    cached = {repository: is_cached(repository) for repository in sorted(set(ALIASES.values()))}
    return bundled + [Available(name, repository, cached[repository]) for name, repository in ALIASES.items()]


def find(name: str | Path, *, revision: str | None = None, any_folder: bool = False) -> Location:
    """The folder that a name means.

    Looked for in this order: a folder that exists, a bundled model, an alias, a name on the hub. A string that is an
    explicit path (absolute, or beginning with `.` or `~`), like a `Path`, is only ever a folder.

    Args:
        name: A folder or a name.
        revision: Branch, tag or commit, for names on the hub.
        any_folder: A folder will do that holds no model, such as a tokenizer alone.

    Raises:
        CheckpointError: Nothing can be loaded under that name, or it means two models.
    """
    if not str(name).strip():
        raise CheckpointError("a model's name must not be empty; give a folder, or a name that `pellucid models` lists")
    path = Path(name).expanduser()
    text = str(name)
    named = {"a bundled model": bundled_models(), "a name of a model on the hub": ALIASES}
    others = [what for what, names in named.items() if text in names]
    if isinstance(name, Path) or path.is_absolute() or text.startswith((".", "~")) or (path.exists() and not others):
        return _folder(path, text, revision, any_folder=any_folder)
    if _is_model(path):
        raise CheckpointError(
            f"{text!r} must mean one model, it is a folder here and {others[0]} too; say {'./' + text!r} for the "
            "folder, or start in another one"
        )
    if text in bundled_models():
        return _folder(_bundled() / text, text, revision)
    folder, commit = download(ALIASES.get(text, text), revision=revision, known=[*bundled_models(), *ALIASES])
    return Location(text, folder, commit)


def _folder(path: Path, name: str, revision: str | None, *, any_folder: bool = False) -> Location:
    if path.is_file():
        raise CheckpointError(f"a model must be given as its folder, {name} is a file; give the folder that holds it")
    if not path.is_dir():
        known = [*bundled_models(), *ALIASES]
        raise CheckpointError(
            f"{name} must be a folder that holds a model, it does not exist{nearest(path.name, known)}"
        )
    if not any_folder and not _is_model(path):
        kept = checkpoints(path)
        if kept:
            raise CheckpointError(
                f"{name} must hold a trained model, its training has not ended; take one of its {len(kept)} "
                f"checkpoints by checkpoint_index or checkpoint_value, the last one is step {max(kept)}, or end it by "
                f"`pellucid train --out {name} --resume`"
            )
        found = ", ".join(sorted(part.name for part in path.iterdir())[:8]) or "nothing"
        raise CheckpointError(f"{name} must hold a model: a config.json and its weights; found {found}")
    if revision is not None:
        raise CheckpointError(f"a revision must be of a model on the hub, {name} is a folder; leave revision out")
    return Location(name, path)


def _about(name: str) -> str | None:
    card = _bundled() / name / "card.json"
    return json.loads(card.read_text(encoding="utf-8")).get("about") if card.is_file() else None


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file()


def _bundled() -> Path:
    return Path(str(files("pellucid"))) / "bundled"
