"""Vocabularies of toys: numbers, words, or single characters.

They are ordinary tokenizers of the `tokenizers` library, so they save and load as any other.
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pellucid.base.errors import ArgumentError
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

BOS = "<bos>"


def integer_vocabulary(n: int, *, bos: int | None = 0) -> Tokenizer:
    """Tokens that are numbers: the text ``"3 5 12"`` is the ids 3, 5, 12.

    Args:
        n: How many tokens.
        bos: The id that is BOS: it is written ``<bos>``, and its number is read as that too. None: no BOS.

    Raises:
        ArgumentError: `n` below 1, or `bos` not among the tokens.

    Example:
        >>> tokenizer = integer_vocabulary(64)
        >>> tokenizer.encode("3 5 12"), tokenizer.strings([0, 3, 12])
        ([3, 5, 12], ['<bos>', '3', '12'])
    """
    from tokenizers import Regex, normalizers, pre_tokenizers

    if n < 1:
        raise ArgumentError(f"a vocabulary must have at least 1 token, got n={n}.")
    if bos is not None and not 0 <= bos < n:
        raise ArgumentError(f"bos must be one of the ids 0 to {n - 1}, or None for no BOS; got {bos}.")
    vocab = {BOS if i == bos else str(i): i for i in range(n)}
    inner = _word_level(vocab)
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos is not None:
        inner.normalizer = normalizers.Replace(Regex(rf"(?<!\S){bos}(?!\S)"), BOS)
    return _tokenizer(inner, bos)


def word_vocabulary(words: Iterable[str], *, bos: str | None = BOS) -> Tokenizer:
    """Tokens that are words and marks of punctuation, in the order given; spaces only part them.

    Args:
        words: Each once, without white space.
        bos: Name of a BOS token, which becomes id 0 and moves the words up by one. None: no BOS.

    Raises:
        ArgumentError: No words, one given twice, or one that no text is cut into.

    Example:
        >>> tokenizer = word_vocabulary(["Mary", "went", "home", "."])
        >>> tokenizer.encode("Mary went home."), tokenizer.single(" Mary")
        ([1, 2, 3, 4], 1)
    """
    from tokenizers import pre_tokenizers

    words = list(words)
    cut = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    twice = sorted(word for word, count in Counter(words).items() if count > 1)
    split = [word for word in words if [piece for piece, _ in cut.pre_tokenize_str(word)] != [word]]
    if not words or twice or split or bos in words:
        raise ArgumentError(
            f"words must be one or more, each once and none of them {bos!r}, without white space or punctuation in "
            f"their midst, got {len(words)}, more than once: {twice}, cut in pieces: {split}"
        )
    names = words if bos is None else [bos, *words]
    inner = _word_level({name: i for i, name in enumerate(names)})
    inner.pre_tokenizer = cut
    return _tokenizer(inner, None if bos is None else 0)


def character_vocabulary(characters: Iterable[str], *, bos: str | None = None) -> Tokenizer:
    """Tokens that are single characters, in the order given.

    Args:
        characters: Each once.
        bos: Name of a BOS token, such as ``<bos>``, which becomes id 0 and moves the characters up by one.
            None: no BOS.

    Raises:
        ArgumentError: No characters, one given twice, more than one in a token; or a BOS whose name is empty
            or one of the characters.

    Example:
        >>> tokenizer = character_vocabulary("ab ", bos="<bos>")
        >>> tokenizer.tokens(["a b"]).tokens.tolist()
        [[0, 1, 3, 2]]
    """
    from tokenizers import Regex, decoders, pre_tokenizers

    characters = list(characters)
    long = [c for c in characters if len(c) != 1]
    twice = sorted(c for c, count in Counter(characters).items() if count > 1)
    if not characters or long or twice:
        raise ArgumentError(
            "characters must be one or more single characters, each once; "
            f"got {len(characters)} of them, not single: {long}, more than once: {twice}."
        )
    if bos is not None and (not bos or bos in characters):
        raise ArgumentError(f"bos must be a name that is no character of the vocabulary, got {bos!r}.")
    names = characters if bos is None else [bos, *characters]
    inner = _word_level({name: i for i, name in enumerate(names)})
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return _tokenizer(inner, None if bos is None else 0)


def _word_level(vocab: dict[str, int]) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer as Inner
    from tokenizers.models import WordLevel

    return Inner(WordLevel(vocab))


def _tokenizer(inner: "tokenizers.Tokenizer", bos_id: int | None) -> Tokenizer:
    from tokenizers import AddedToken

    if bos_id is not None:
        inner.add_special_tokens([AddedToken(inner.id_to_token(bos_id), special=True, normalized=False)])
    return Tokenizer(inner, TextPolicy.of(bos_id=bos_id))
