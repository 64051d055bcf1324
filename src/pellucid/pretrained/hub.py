"""A model of the hub, through huggingface_hub and its cache: only the files that are read, and never code."""

from collections.abc import Collection
from pathlib import Path

from pellucid.base.errors import CheckpointError, nearest

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_VOCABULARY = ("vocab.json", "merges.txt", "vocab.txt")
_ALWAYS = ("config.json", *_TOKENIZER, *_VOCABULARY)
_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


def download(repository: str, *, revision: str | None = None, known: Collection[str] = ()) -> tuple[Path, str]:
    """The folder of the hub's cache that holds a model, filled where it is not, and the commit that it is.

    `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` are respected. Old `.bin` files are taken only where there are no
    safetensors.

    Args:
        repository: Its name on the hub.
        revision: Branch, tag or commit; None for the main branch.
        known: Names that need no hub, which a misspelt one may mean.

    Raises:
        CheckpointError: It cannot be had; the message says why and what to do.
    """
    folder = _snapshot(repository, revision, _SAFETENSORS, known)
    if not any(folder.glob("model*.safetensors")):
        folder = _snapshot(repository, revision, _PICKLES, known)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{repository} must hold a config.json, on the hub and in its cache ({folder}), and does not; "
            "choose a repository of a model"
        )
    return folder, folder.name


def is_cached(repository: str) -> bool:
    """Whether the hub's cache holds the model's configuration, so that it may load without a network."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, "config.json"), str)


def _snapshot(repository: str, revision: str | None, weights: tuple[str, ...], known: Collection[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    at = "" if revision is None else f" at revision {revision!r}"
    meaning = "must be a folder that exists, a bundled model, an alias or a name on the hub"
    near = "" if repository in known else nearest(repository, known)
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[*_ALWAYS, *weights]))
    except errors.HFValidationError as error:
        raise CheckpointError(f"{repository!r} {meaning}, and is none{near}") from error
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repository}{at} needs its owner's permission: accept its terms on https://huggingface.co/{repository}, "
            "then run: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repository!r} {meaning}, and is none; check the spelling, or for a private model run: hf auth login"
            f"{near}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repository} has no revision {revision!r}; leave it out for the main branch") from error
    except errors.LocalEntryNotFoundError as error:
        partly = getattr(error, "snapshot_path", None)
        if partly is not None:  # some files are missing; the reader says so if it needs them
            return Path(partly)
        raise CheckpointError(
            f"{repository!r}{at} is neither here nor in the hub's cache, and the hub cannot be reached: go online "
            f"(without HF_HUB_OFFLINE), or give a folder that holds the model{near}"
        ) from error
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:
        raise CheckpointError(f"{repository}{at} cannot be had from the hub: {error}; try again later") from error
