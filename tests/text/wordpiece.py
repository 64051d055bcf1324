"""A vocabulary of WordPiece, small enough to read."""

WORDPIECE = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("the", "dog", "run", "##ning", "##s", ".", ",", "a", "é", "e", "'", "t", "n", "##t", "do", "狗", "!", "##e"),
]
