"""Every file in which a tokenizer may lie: whole, cut off, of the wrong kind."""

import shutil

import pytest

from pellucid.base.errors import CheckpointError
from pellucid.text.read import read_tokenizer
from tests.text.wordpiece import WORDPIECE

BPE = {"a": 0, "b": 1, "Ġ": 2, "ab": 3, "Ġab": 4, "<|endoftext|>": 5}
MERGES = "#version: 0.2\na b\nĠ ab\n"


def test_a_folder_without_a_tokenizer_has_none(tmp_path):
    assert read_tokenizer(tmp_path) is None


def test_a_small_byte_level_vocabulary_is_read(folder):
    tokenizer = read_tokenizer(folder(vocab__json=BPE, merges__txt=MERGES))
    assert tokenizer.encode("ab ab<|endoftext|>") == [3, 4, 5]
    assert tokenizer.policy.bos_id == tokenizer.policy.eos_id == 5


def test_a_byte_level_vocabulary_without_endoftext_has_no_bos(folder):
    vocab = {name: i for name, i in BPE.items() if i < 5}
    tokenizer = read_tokenizer(folder(vocab__json=vocab, merges__txt=MERGES))
    assert tokenizer.policy.bos_id is None
    assert not tokenizer.policy.prepend_bos


def test_a_prefix_space_is_put_where_the_configuration_asks_for_it(folder):
    path = folder(vocab__json=BPE, merges__txt=MERGES, tokenizer_config__json={"add_prefix_space": True})
    assert read_tokenizer(path).encode("ab") == [4]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_one_file_of_the_pair_alone_is_refused(folder, name):
    path = folder(vocab__json=BPE, merges__txt=MERGES)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name} must lie beside .*, and is missing"):
        read_tokenizer(path)


def test_a_vocabulary_cut_off_is_refused(folder):
    path = folder(vocab__json='{"a": 0, "b": 1, "Ġ', merges__txt=MERGES)
    with pytest.raises(CheckpointError, match=r"vocab\.json must be JSON, got: .*may be cut off"):
        read_tokenizer(path)


def test_a_vocabulary_that_is_no_object_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"vocab\.json must hold a JSON object, got list"):
        read_tokenizer(folder(vocab__json=["a", "b"], merges__txt=MERGES))


@pytest.mark.parametrize("number", [-1, "3", 1.5, None, True])
def test_ids_that_are_no_numbers_are_refused(folder, number):
    with pytest.raises(CheckpointError, match=r"vocab\.json must give each token a whole number, got"):
        read_tokenizer(folder(vocab__json=BPE | {"b": number}, merges__txt=MERGES))


def test_two_tokens_of_one_id_are_refused(folder):
    with pytest.raises(CheckpointError, match="a number of its own, and some share one"):
        read_tokenizer(folder(vocab__json=BPE | {"b": 0}, merges__txt=MERGES))


@pytest.mark.parametrize(
    ("merges", "line"),
    [
        ("a b\nĠ", "line 2"),
        ("a b c\n", "line 1"),
        ("#version: 0.2\nb a\n", "line 2"),
        ("a b\nĠ  ab\n", "line 2"),
    ],
)
def test_merges_that_do_not_fit_the_vocabulary_are_refused(folder, merges, line):
    with pytest.raises(CheckpointError, match=rf"merges\.txt, {line} must be two tokens .* that make a third"):
        read_tokenizer(folder(vocab__json=BPE, merges__txt=merges))


def test_windows_line_ends_are_read(folder):
    path = folder(vocab__json=BPE)
    (path / "merges.txt").write_bytes(MERGES.replace("\n", "\r\n").encode())
    assert read_tokenizer(path).encode("ab") == [3]


def test_the_end_of_words_marked_is_another_kind_of_vocabulary(folder):
    with pytest.raises(CheckpointError, match=r"merges\.txt marks the ends of words \(</w>\)"):
        read_tokenizer(folder(vocab__json={"a": 0, "b</w>": 1, "ab</w>": 2}, merges__txt="a b</w>\n"))


@pytest.mark.parametrize("part", [0.5, 0.99])
def test_merges_of_gpt2_cut_off_are_refused(shared, tmp_path, part):
    shutil.copytree(shared / "data" / "gpt2-tokenizer", tmp_path, dirs_exist_ok=True)
    lines = (tmp_path / "merges.txt").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "merges.txt").write_text("".join(lines[: int(part * len(lines))]), "utf-8")
    with pytest.raises(CheckpointError, match=r"of 50257 are made by no line; the file may be cut off"):
        read_tokenizer(tmp_path)


def test_a_tokenizer_json_cut_off_is_refused(shared, tmp_path):
    text = (shared / "data" / "stories260k" / "tokenizer.json").read_text("utf-8")
    (tmp_path / "tokenizer.json").write_text(text[: len(text) // 2], "utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json must be a tokenizer .*may be cut off"):
        read_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[1]", "null"])
def test_a_tokenizer_json_that_is_none_is_refused(folder, content):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json must be a tokenizer of the tokenizers library"):
        read_tokenizer(folder(tokenizer__json=content))


def test_a_tokenizer_json_with_a_merge_outside_the_vocabulary_is_refused(folder):
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "b"]]}
    with pytest.raises(CheckpointError, match=r"tokenizer\.json must be a tokenizer"):
        read_tokenizer(folder(tokenizer__json={"version": "1.0", "model": model, "added_tokens": []}))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\xff\xfe\n")
    with pytest.raises(CheckpointError, match=r"vocab\.txt must be UTF-8 text"):
        read_tokenizer(tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "vocab.txt").mkdir()
    with pytest.raises(CheckpointError, match=r"vocab\.txt must be readable"):
        read_tokenizer(tmp_path)


def test_a_sentencepiece_model_alone_is_refused_with_the_way_out(folder):
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is a SentencePiece model.*save_pretrained"):
        read_tokenizer(folder(tokenizer__model="binary"))


def test_wordpiece_lowers_case_unless_told_otherwise(folder):
    vocab = "\n".join([*WORDPIECE, "Dog"])
    assert read_tokenizer(folder(vocab__txt=vocab)).single("Dog") == WORDPIECE.index("dog")
    cased = read_tokenizer(folder(vocab__txt=vocab, tokenizer_config__json={"do_lower_case": False}))
    assert cased.encode("Dog dog", add_special_tokens=False) == [len(WORDPIECE), WORDPIECE.index("dog")]


def test_wordpiece_keeps_accents_where_asked(folder):
    vocab = "\n".join(WORDPIECE)
    stripped = read_tokenizer(folder(vocab__txt=vocab))
    assert stripped.strings(stripped.encode("é", add_special_tokens=False)) == ["e"]
    kept = read_tokenizer(folder(vocab__txt=vocab, tokenizer_config__json={"strip_accents": False}))
    assert kept.strings(kept.encode("é", add_special_tokens=False)) == ["é"]


def test_wordpiece_without_its_unknown_token_is_refused(folder):
    with pytest.raises(CheckpointError, match=r"must have the unknown token '\[UNK\]', and has 2 tokens"):
        read_tokenizer(folder(vocab__txt="the\ndog\n"))


def test_wordpiece_without_cls_adds_nothing(folder):
    tokenizer = read_tokenizer(folder(vocab__txt="[UNK]\nthe\n"))
    assert tokenizer.encode("the") == [1]
    assert tokenizer.policy.bos_id is None
