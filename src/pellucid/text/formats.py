"""The files in which tokenizers lie, read into one of the `tokenizers` library.

`tokenizer.json`, which says everything; GPT-2's `vocab.json` and `merges.txt` (byte-level BPE); BERT's
`vocab.txt` (WordPiece). What a file cannot say, `tokenizer_config.json` does.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import CheckpointError

if TYPE_CHECKING:
    import tokenizers

GPT2_NAMES = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
BERT_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


@dataclass(frozen=True)
class Read:
    """A tokenizer as its files say it, before any special token is settled."""

    inner: "tokenizers.Tokenizer"
    path: Path
    """The file of the vocabulary, for messages."""
    names: dict[str, str] = field(default_factory=dict)
    """Special tokens that this format has where nothing else is said."""


def read_files(folder: Path, config: dict[str, Any]) -> Read | None:
    """The tokenizer of a folder; None if there is none.

    Raises:
        CheckpointError: A file is broken, or one of a pair is missing.
    """
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if (folder / "tokenizer.json").exists():
        return _read_whole(folder / "tokenizer.json")
    if vocab.exists() or merges.exists():
        return _read_bpe(vocab, merges, config)
    if (folder / "vocab.txt").exists():
        return _read_wordpiece(folder / "vocab.txt", config)
    for name in ("tokenizer.model", "spiece.model"):
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder / name} is a SentencePiece model, which is not read here; make a tokenizer.json "
                "of it: transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
            )
    return None


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty if there is no such file.

    Raises:
        CheckpointError: The file is not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(_read_text(path))
    except ValueError as error:
        raise CheckpointError(f"{path} must be JSON, got: {error}; the file may be cut off, fetch it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}; fetch it again.")
    return value


def token_name(value: object, path: Path) -> str | None:
    """A token as configurations write it: its text, an object with its `content`, or null.

    Raises:
        CheckpointError: It is none of these.
    """
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return value["content"]
    if value is None or isinstance(value, str):
        return value
    raise CheckpointError(f"{path}: a special token must be a text, an object with content, or null; got {value!r}.")


def _read_whole(path: Path) -> Read:
    from tokenizers import Tokenizer

    try:
        return Read(Tokenizer.from_file(str(path)), path)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    # The library panics on some broken files, which is no Exception.
    except BaseException as error:
        raise CheckpointError(
            f"{path} must be a tokenizer of the tokenizers library, got: {error}; "
            "the file may be cut off, fetch it again."
        ) from error


def _read_bpe(vocab_path: Path, merges_path: Path, config: dict[str, Any]) -> Read:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    for path, other in ((vocab_path, merges_path), (merges_path, vocab_path)):
        if not path.exists():
            raise CheckpointError(f"{path} must lie beside {other.name}, and is missing; fetch it too.")
    vocab = _checked_ids(read_object(vocab_path), vocab_path)
    merges = _read_merges(merges_path, vocab)
    # As GPT2Tokenizer of transformers builds it.
    inner = Tokenizer(models.BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(config.get("add_prefix_space", False)))
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    return Read(inner, vocab_path, {key: name for key, name in GPT2_NAMES.items() if name in vocab})


def _checked_ids(vocab: dict[str, Any], path: Path) -> dict[str, int]:
    for name, i in vocab.items():
        if type(i) is not int or i < 0:
            raise CheckpointError(
                f"{path} must give each token a whole number, got {i!r} for {name!r}; fetch it again."
            )
    if len(set(vocab.values())) < len(vocab):
        raise CheckpointError(f"{path} must give each token a number of its own, and some share one; fetch it again.")
    return vocab


def _read_merges(path: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    lines = _read_text(path).split("\n")
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or line.startswith("#version"):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not {*parts, "".join(parts)} <= vocab.keys():
            raise CheckpointError(
                f"{path}, line {number} must be two tokens of vocab.json that make a third, got {line!r}; "
                "the file may be cut off or of another vocabulary, fetch both again."
            )
        merges.append((parts[0], parts[1]))
    if any(right.endswith("</w>") for _, right in merges):
        raise CheckpointError(
            f"{path} marks the ends of words (</w>), which GPT-2's byte-level BPE does not; give a tokenizer.json."
        )
    # A few tokens are made by no merge (special ones, fillers). Many: the end of the file is missing.
    made = {left + right for left, right in merges}
    unmade = sum(len(name) > 1 and name not in made for name in vocab)
    if unmade > max(32, len(vocab) // 1000):
        raise CheckpointError(
            f"{path} must make the tokens of vocab.json, and {unmade} of {len(vocab)} are made by no line; "
            "the file may be cut off, fetch it again."
        )
    return merges


def _read_wordpiece(path: Path, config: dict[str, Any]) -> Read:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    lines = _read_text(path).split("\n")
    vocab = {token: i for i, token in enumerate(lines[:-1] if not lines[-1] else lines)}
    config_path = path.parent / "tokenizer_config.json"
    names = {key: token_name(config.get(key), config_path) or usual for key, usual in BERT_NAMES.items()}
    if names["unk_token"] not in vocab:
        raise CheckpointError(
            f"{path} must have the unknown token {names['unk_token']!r}, and has {len(vocab)} tokens "
            "without it; the file may be cut off, fetch it again."
        )
    # As BertTokenizer of transformers builds it.
    inner = Tokenizer(models.WordPiece(vocab, unk_token=names["unk_token"]))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    first, last = names["cls_token"], names["sep_token"]
    if first in vocab and last in vocab:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{first}:0 $A:0 {last}:0",
            pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
            special_tokens=[(first, vocab[first]), (last, vocab[last])],
        )
    return Read(inner, path, {key: name for key, name in names.items() if name in vocab})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} must be UTF-8 text, got: {error}; fetch it again.") from error
    except OSError as error:
        raise CheckpointError(f"{path} must be readable, got: {error}.") from error
