"""A folder's tokenizer: the vocabulary, and the special tokens that the configuration beside it names."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import CheckpointError
from pellucid.text.formats import Read, read_files, read_object, token_name
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
_LISTED = ("additional_special_tokens", "extra_special_tokens")


def read_tokenizer(
    folder: str | Path, *, bos_id: int | None = None, eos_id: int | None = None, pad_id: int | None = None
) -> Tokenizer | None:
    """The tokenizer that lies in a folder; None if there is none.

    Special tokens are what `tokenizer_config.json` says (null there means: none), then
    `special_tokens_map.json`, then the ids given, then what the format is known to have. The token ``[CLS]``
    is the BOS where none is named.

    BOS is put before every text where there is one, and batches are padded on the right: `add_bos_token` and
    `padding_side` of the configuration do not change that, since the field prepends BOS to GPT-2 though its
    configuration says otherwise. (`add_bos_token` governs what `Tokenizer.__call__` and `encode` add, as it
    does in transformers.) A folder that `Tokenizer.save` wrote keeps its policy.

    Args:
        folder: Where the files are.
        bos_id: BOS of the model's configuration, if it names one; below 0: none.
        eos_id: Likewise EOS.
        pad_id: Likewise padding.

    Raises:
        CheckpointError: A file is broken or of a kind that is not read; a special token is not in the
            vocabulary.
    """
    folder = Path(folder)
    config = read_object(folder / "tokenizer_config.json")
    read = read_files(folder, config)
    if read is None:
        return None
    _add_tokens(read.inner, folder, config)
    said = _Said(folder, config)
    names = _names(read, said.named(), {"bos_token": bos_id, "eos_token": eos_id, "pad_token": pad_id})
    _mark_special(read, names, said)
    policy = _policy(read.inner, names)
    if "pellucid" in config:
        policy = _kept(policy, config["pellucid"], read.inner, names.get("pad_token"))
    _follow_template(read.inner, policy, config)
    settings = config | {key: name for key, name in names.items() if name is not None}
    return Tokenizer(read.inner, policy, name_or_path=str(folder), settings=settings)


class _Said:
    """What the files beside the vocabulary say of special tokens."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        own = dict.fromkeys(config, folder / "tokenizer_config.json")
        older = read_object(folder / "special_tokens_map.json")
        self.values = older | config
        self.paths = dict.fromkeys(older, folder / "special_tokens_map.json") | own

    def named(self) -> dict[str, str | None]:
        """The name of each token that has a role, None where the file says that there is none."""
        return {key: token_name(self.values[key], self.paths[key]) for key in _NAMED if key in self.values}

    def listed(self) -> Iterator[tuple[str, str]]:
        """Special tokens without a role of their own, each with the list that it stands in."""
        for key in _LISTED:
            value = self.values.get(key) or []
            for token in value.values() if isinstance(value, dict) else value:
                name = token_name(token, self.paths[key])
                if name is not None:
                    yield key, name


def _add_tokens(inner: "tokenizers.Tokenizer", folder: Path, config: dict[str, Any]) -> None:
    """Tokens that were added to a vocabulary after it was made, each at its own id."""
    path = folder / "added_tokens.json"
    pairs = [(i, name) for name, i in read_object(path).items()]
    if "added_tokens_decoder" in config:
        path = folder / "tokenizer_config.json"
        if not isinstance(config["added_tokens_decoder"], dict):
            raise CheckpointError(f"{path}: added_tokens_decoder must be an object; fetch the file again.")
        pairs = list(config["added_tokens_decoder"].items())
    wanted = {str(i): token for i, token in pairs}
    for i, token in sorted(wanted.items(), key=lambda pair: (len(pair[0]), pair[0])):
        name = token_name(token, path) or ""
        if inner.token_to_id(name) is None:
            inner.add_tokens([_added(token)])
        if str(inner.token_to_id(name)) != i:
            raise CheckpointError(
                f"{path} must fit the vocabulary beside it: it gives {name!r} the id {i}, which would become "
                f"{inner.token_to_id(name)}; fetch the tokenizer's files of one version."
            )


def _names(read: Read, declared: dict[str, str | None], given: dict[str, int | None]) -> dict[str, str | None]:
    """The name of each special token, by role."""
    names = dict(declared)
    first = names.get("cls_token", read.names.get("cls_token"))
    if "bos_token" not in names and first is not None:
        names["bos_token"] = first
    for key, i in given.items():
        # Old configurations write -1 for none.
        if key not in names and i is not None and i >= 0:
            names[key] = read.inner.id_to_token(i)
            if names[key] is None:
                raise CheckpointError(
                    f"{read.path} must hold the model's {key}_id {i}, and has "
                    f"{read.inner.get_vocab_size()} tokens; correct {key}_id in config.json (null for none), "
                    "or give the tokenizer of this model."
                )
    return read.names | names


def _mark_special(read: Read, names: dict[str, str | None], said: _Said) -> None:
    """Every special token is found in text as a whole, and is known to be special."""
    inner = read.inner
    known = {token.content for token in inner.get_added_tokens_decoder().values() if token.special}
    for role, name in [*names.items(), *said.listed()]:
        if name is None or name in known:
            continue
        if inner.token_to_id(name) is None:
            raise CheckpointError(
                f"{read.path} must hold every special token, and {role} {name!r} is not among its "
                f"{inner.get_vocab_size()} tokens; correct {said.paths[role]}, or fetch the vocabulary again."
            )
        value = said.values.get(role)
        attributes = value if isinstance(value, dict) and value.get("content") == name else name
        inner.add_special_tokens([_added(attributes, special=True)])


def _added(token: dict[str, Any] | str, **changes: Any) -> "tokenizers.AddedToken":
    from tokenizers import AddedToken

    said = token if isinstance(token, dict) else {"content": token}
    known = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return AddedToken(**{key: said[key] for key in known if key in said} | changes)


def _policy(inner: "tokenizers.Tokenizer", names: dict[str, str | None]) -> TextPolicy:
    ids = {role: inner.token_to_id(name) for role, name in names.items() if name is not None}
    # WordLevel, WordPiece and BPE name their own unknown token, declared or not.
    own = getattr(inner.model, "unk_token", None)
    return TextPolicy.of(
        bos_id=ids.get("bos_token"),
        eos_id=ids.get("eos_token"),
        pad_id=ids.get("pad_token"),
        unk_id=ids.get("unk_token", inner.token_to_id(own) if own is not None else None),
        special_ids=[i for i, token in inner.get_added_tokens_decoder().items() if token.special],
    )


def _kept(policy: TextPolicy, kept: dict[str, Any], inner: "tokenizers.Tokenizer", pad_token: str | None) -> TextPolicy:
    """The policy that `Tokenizer.save` wrote, a padding that was taken away included."""
    said = {key: kept[key] for key in ("prepend_bos", "padding_side") if key in kept}
    return replace(policy, pad_id=None if pad_token is None else inner.token_to_id(pad_token), **said)


def _follow_template(inner: "tokenizers.Tokenizer", policy: TextPolicy, config: dict[str, Any]) -> None:
    """Where the configuration has `add_bos_token` or `add_eos_token`, they replace the file's template."""
    from tokenizers.processors import TemplateProcessing

    if not {"add_bos_token", "add_eos_token"} & config.keys():
        return
    # By an alias: a token's own name may hold what the template's language reserves.
    ends = {
        alias: i
        for alias, i, asked in (
            ("first", policy.bos_id, config.get("add_bos_token")),
            ("last", policy.eos_id, config.get("add_eos_token")),
        )
        if i is not None and asked
    }
    first, last = ([alias] if alias in ends else [] for alias in ("first", "last"))
    inner.post_processor = TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", "$B:1", *last],
        special_tokens=[{"id": alias, "ids": [i], "tokens": [inner.id_to_token(i)]} for alias, i in ends.items()],
    )
