"""Documents as rows of token ids, against a literal version."""

import gc
import hashlib
import io
import os
import tempfile
from collections import Counter
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, OutputError, TokenError
from pellucid.text import packing
from pellucid.text.corpus import Corpus
from pellucid.text.packing import held_out, pack
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.vocabulary import character_vocabulary, integer_vocabulary

property_test = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def with_policy(tokenizer, **policy):
    return Tokenizer(tokenizer.inner, TextPolicy(**policy))


KINDS = {
    "BOS and EOS": {"bos_id": 0, "eos_id": 1, "prepend_bos": True},
    "BOS only": {"bos_id": 0, "prepend_bos": True},
    "BOS that is EOS": {"bos_id": 0, "eos_id": 0, "prepend_bos": True},
    "EOS only": {"eos_id": 1, "prepend_bos": False},
    "BOS that is not put in front": {"bos_id": 0, "prepend_bos": False},
    "neither": {"prepend_bos": False},
}


def of_kind(kind):
    return with_policy(integer_vocabulary(12, bos=None), **KINDS[kind])


def literal_streams(documents, tokenizer, share):
    policy = tokenizer.policy
    between = policy.eos_id if policy.eos_id is not None else policy.bos_id
    streams = {False: [], True: []}
    for text in documents:
        stream, ids = streams[held_out(text, share)], tokenizer.encode(text, add_special_tokens=False)
        if stream and ids and between is not None:
            stream.append(between)
        stream.extend(ids)
    return streams[False], streams[True]


def literal_rows(stream, tokenizer, length):
    policy = tokenizer.policy
    between = policy.eos_id if policy.eos_id is not None else policy.bos_id
    front = [policy.bos_id] if policy.prepend_bos else []
    rows, row = [], list(front)
    for token in stream:
        if front and row == front and token in (policy.bos_id, between):
            continue
        row.append(token)
        if len(row) == length:
            rows.append(row)
            row = list(front)
    return rows


def literal(documents, tokenizer, length, share):
    return [literal_rows(stream, tokenizer, length) for stream in literal_streams(documents, tokenizer, share)]


def told(packed):
    return {name: value for name, value in vars(packed).items() if not isinstance(value, np.ndarray)}


def assert_same(one, other):
    assert told(one) == told(other)
    for a, b in ((one.train, other.train), (one.held_out, other.held_out)):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
        assert not a.flags.writeable
        assert not b.flags.writeable


# Rows


# Ids 0 and 1 stand in the texts too, and some documents have no token at all.
some_documents = st.lists(
    st.lists(st.integers(0, 11), max_size=9).map(lambda ids: " ".join(map(str, ids))), max_size=12
)


@property_test
@given(
    some_documents,
    st.sampled_from(sorted(KINDS)),
    st.integers(2, 6),
    st.sampled_from([0.0, 0.3, 0.9]),
    st.integers(1, 5),
    st.sampled_from([0, 9, 30, 10**6]),
)
@example(["5 6", "7 8", "9"], "BOS that is EOS", 3, 0.0, 5, 10**6)
@example(["5", "", "", "6"], "EOS only", 3, 0.0, 1, 0)
def test_rows_are_those_of_the_literal_version(documents, kind, length, share, at_once, max_bytes):
    tokenizer = of_kind(kind)
    train, kept = literal(documents, tokenizer, length, share)
    with mock.patch.object(packing, "_DOCUMENTS_AT_ONCE", at_once):
        if not train:
            with pytest.raises(ArgumentError, match="must fill one row"):
                pack(documents, tokenizer, length=length, held_out=share, max_bytes=max_bytes)
            return
        packed = pack(documents, tokenizer, length=length, held_out=share, max_bytes=max_bytes)
    assert packed.train.tolist() == train
    assert packed.held_out.tolist() == kept
    assert packed.held_out.shape == (len(kept), length)
    assert packed.bos == tokenizer.policy.prepend_bos
    sides = [[text for text in documents if held_out(text, share) == side] for side in (False, True)]
    counts = [(len(side), sum(len(text.split()) for text in side), sum(map(len, side))) for side in sides]
    assert (packed.n_documents, packed.n_tokens, packed.n_bytes) == counts[0]
    assert (packed.n_held_out_documents, packed.n_held_out_tokens, packed.n_held_out_bytes) == counts[1]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("BOS and EOS", [[0, 5, 6], [0, 7, 8], [0, 9, 1], [0, 10, 11]]),
        ("BOS that is EOS", [[0, 5, 6], [0, 7, 8], [0, 9, 0], [0, 10, 11]]),
        ("EOS only", [[5, 6, 1], [7, 8, 9], [1, 10, 11]]),
        ("neither", [[5, 6, 7], [8, 9, 10]]),
    ],
)
def test_documents_are_separated_and_no_row_begins_with_two_special_tokens(kind, rows):
    assert pack(["5 6", "7 8 9", "10 11"], of_kind(kind), length=3).train.tolist() == rows


def test_rows_do_not_depend_on_how_much_is_tokenised_at_once(monkeypatch):
    documents = [f"{i % 12} " * (i % 17) for i in range(300)]
    whole = pack(documents, of_kind("BOS and EOS"), length=5, held_out=0.2)
    for name, value in (("_BYTES_AT_ONCE", 20), ("_DOCUMENTS_AT_ONCE", 1)):
        monkeypatch.setattr(packing, name, value)
        assert_same(pack(documents, of_kind("BOS and EOS"), length=5, held_out=0.2), whole)


def test_a_document_may_be_far_longer_than_what_is_tokenised_at_once(monkeypatch):
    monkeypatch.setattr(packing, "_BYTES_AT_ONCE", 10)
    rows = pack(["2 3 4 " * 2000], of_kind("neither"), length=3).train
    assert rows.tolist() == [[2, 3, 4]] * 2000


@pytest.mark.parametrize(("n", "dtype"), [(256, np.uint8), (257, np.uint16), (2**16 + 1, np.uint32)])
def test_ids_are_the_smallest_unsigned_integers_that_fit_the_vocabulary(n, dtype):
    packed = pack([f"{n - 1} 1 {n - 2}"], integer_vocabulary(n), length=3)
    assert packed.train.dtype == dtype
    assert packed.train.tolist() == [[0, n - 1, 1]]


def test_older_versions_of_tokenizers_serve_too():
    tokenizer = character_vocabulary("ab", bos="<bos>")

    class Older:
        def __init__(self, inner):
            self.encode_batch, self.get_vocab = inner.encode_batch, inner.get_vocab

    older = Tokenizer(tokenizer.inner, tokenizer.policy)
    older.inner = Older(tokenizer.inner)
    assert_same(pack(["abab", "ba"], older, length=3), pack(["abab", "ba"], tokenizer, length=3))


# Which side


@given(st.text(st.characters(codec="utf-8")), st.floats(0, 1, exclude_max=True))
def test_a_document_is_held_out_by_its_own_digest(text, share):
    drawn = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
    assert held_out(text, share) == (drawn < share)


def test_about_the_share_asked_for_is_held_out():
    n = sum(held_out(str(i), 0.1) for i in range(10_000))
    assert 900 < n < 1100
    assert not any(held_out(str(i), 0) for i in range(1000))


@given(st.permutations(range(2, 12)))
def test_the_sides_do_not_depend_on_the_order(order):
    tokenizer = of_kind("neither")
    documents = [f"{i} {i}" for i in order]
    packed = pack(documents, tokenizer, length=2, held_out=0.4)
    sides = [Counter(map(tuple, rows.tolist())) for rows in (packed.train, packed.held_out)]
    assert sides == [Counter((i, i) for i in range(2, 12) if held_out(f"{i} {i}", 0.4) == side) for side in (0, 1)]
    assert min(map(len, sides)) > 0


# What was read


def test_the_hash_tells_texts_order_and_where_a_document_ends():
    tokenizer = character_vocabulary("abc")
    documents = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["ab", "c", ""]]
    hashes = [pack(texts, tokenizer, length=2).hash for texts in documents]
    assert len(set(hashes)) == len(hashes)
    digests = b"".join(hashlib.sha256(text.encode()).digest() for text in ["ab", "c"])
    assert hashes[0] == hashlib.sha256(digests).hexdigest()
    assert pack(["ab", "c"], tokenizer, length=3, held_out=0.01).hash == hashes[0]


def test_bytes_are_those_of_utf8():
    packed = pack(["aé", "é😀"], character_vocabulary("aé😀"), length=2)
    assert (packed.n_tokens, packed.n_bytes) == (4, 9)


# Memory and files


@pytest.mark.parametrize("max_bytes", [0, 100, 5000])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_rows_in_a_file_are_those_in_memory(tmp_path, monkeypatch, max_bytes, share):
    monkeypatch.setattr(packing, "_DOCUMENTS_AT_ONCE", 7)
    documents = [f"{i % 600} {i % 7} {i % 500}" for i in range(3000)]
    tokenizer = integer_vocabulary(600)
    held = pack(documents, tokenizer, length=8, held_out=share, max_bytes=10**9)
    mapped = pack(documents, tokenizer, length=8, held_out=share, max_bytes=max_bytes, folder=tmp_path / "new")
    assert type(held.train) is np.ndarray
    assert isinstance(mapped.train, np.memmap)
    assert isinstance(mapped.held_out, np.memmap) == (share > 0)
    assert_same(mapped, held)
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("named", [True, False])
def test_the_file_is_in_the_folder_and_is_gone_with_the_rows(tmp_path, monkeypatch, named):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    here = tmp_path / ("named" if named else "system")

    def opened():
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        return [link for link in links if link.startswith(str(tmp_path))]

    packed = pack(["5 6 7 8"], of_kind("neither"), length=2, max_bytes=0, folder=here if named else None)
    assert [link.startswith(str(here)) for link in opened()] == [True]
    assert packed.train.tolist() == [[5, 6], [7, 8]]
    del packed
    gc.collect()
    assert opened() == []
    assert list(here.iterdir()) == []


def test_no_file_stays_open_where_a_document_fails(tmp_path):
    def documents():
        yield from ["5 6 7 8"] * 2000
        raise KeyError("gone")

    with pytest.raises(KeyError):
        pack(documents(), of_kind("neither"), length=2, max_bytes=0, folder=tmp_path)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "mapped"), [(159, True), (160, False), (None, False)])
def test_a_quarter_of_the_free_memory_is_taken_unless_told_otherwise(monkeypatch, free, mapped):
    monkeypatch.setattr(packing, "free_memory", lambda device: free)
    packed = pack(["5 " * 40], of_kind("neither"), length=2)
    assert packed.train.nbytes == 40
    assert isinstance(packed.train, np.memmap) == mapped


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        pack(["5 6"], of_kind("neither"), length=2, max_bytes=0, folder=tmp_path / "file")
    assert str(caught.value) == (
        f"{tmp_path / 'file'} must take the rows that memory cannot hold, got: File exists; "
        "choose another folder, or a larger max_bytes."
    )


def test_a_folder_that_is_full_is_refused(monkeypatch):
    class Full(io.BytesIO):
        def write(self, raw):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    monkeypatch.setattr(tempfile, "tempdir", "/system")
    with pytest.raises(OutputError) as caught:
        pack(["5 6"], of_kind("neither"), length=2, max_bytes=0)
    assert str(caught.value) == (
        "/system must take the rows that memory cannot hold, got: No space left on device; "
        "choose another folder, or a larger max_bytes."
    )


# What is refused


def test_documents_that_do_not_fill_a_row_are_refused():
    with pytest.raises(ArgumentError) as caught:
        pack(["5 6", "7"], of_kind("BOS only"), length=9)
    assert str(caught.value) == (
        "the training documents must fill one row of length=9, got 3 tokens in 2 documents; "
        "give more text, or a smaller length or held_out."
    )


def test_it_is_said_where_all_documents_are_held_out():
    with pytest.raises(ArgumentError) as caught:
        pack(
            [text for text in map(str, range(12)) if held_out(text, 0.5)][:2],
            of_kind("neither"),
            length=2,
            held_out=0.5,
        )
    assert str(caught.value) == (
        "the training documents must fill one row of length=2, got 0 tokens in 0 documents, beside 2 held-out "
        "documents; give more text, or a smaller length or held_out."
    )


def test_no_document_is_refused():
    with pytest.raises(ArgumentError, match="got 0 tokens in 0 documents; give more text"):
        pack([], of_kind("neither"), length=2)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_that_cannot_be_is_refused(share):
    message = rf"^the share that is held out must be at least 0 and below 1, got {share}\.$"
    with pytest.raises(ArgumentError, match=message):
        held_out("a", share)
    with pytest.raises(ArgumentError, match=message):
        pack(["5 6"], of_kind("neither"), length=2, held_out=share)


def test_arguments_that_cannot_be_are_refused():
    tokenizer = of_kind("neither")
    with pytest.raises(
        ArgumentError, match=r"^length must be 2 or more, so that a row has a token to predict; got 1\.$"
    ):
        pack(["5 6"], tokenizer, length=1)
    with pytest.raises(ArgumentError, match=r"^max_bytes must be 0 or more, got -1; 0 puts all rows into files\.$"):
        pack(["5 6"], tokenizer, length=2, max_bytes=-1)
    with pytest.raises(ArgumentError) as caught:
        pack("5 6", tokenizer, length=2)
    assert str(caught.value) == (
        "corpus must be documents, got the string '5 6'; put one text in a list, name a file by Corpus(source=...)."
    )


def test_a_document_that_the_vocabulary_cannot_take_is_shown():
    with pytest.raises(TokenError) as caught:
        pack(["5 6", "7 " * 20 + "cat " * 20, "8"], of_kind("neither"), length=2)
    told = str(caught.value)
    assert told.startswith(
        "document 2 must be valid Unicode made of the vocabulary's tokens, "
        f"got {('7 ' * 20 + 'cat ' * 5 + '…')!r} (WordLevel error"
    )
    assert told.endswith("); leave it out, or write it with these tokens only.")


def test_a_document_that_is_no_unicode_is_shown():
    with pytest.raises(TokenError) as caught:
        pack(["5 6", "7 \ud800"], of_kind("neither"), length=2)
    assert str(caught.value).startswith(
        r"document 2 must be valid Unicode made of the vocabulary's tokens, got '7 \ud800' ('utf-8' codec"
    )


def test_a_failure_that_no_document_causes_alone_is_raised_as_it_is(monkeypatch):
    tokenizer = of_kind("neither")

    class Broken:
        encode, get_vocab = tokenizer.inner.encode, tokenizer.inner.get_vocab

        def encode_batch(self, texts, add_special_tokens):
            raise RuntimeError("no thread left")

    monkeypatch.setattr(tokenizer, "inner", Broken())
    with pytest.raises(RuntimeError, match="no thread left"):
        pack(["5 6"], tokenizer, length=2)


# Real texts


def test_wikitext_is_packed_by_gpt2_as_by_the_literal_version(shared, gpt2):
    path = shared / "data" / "wikitext-2" / "valid.txt"
    documents = [part for part in path.read_text(encoding="utf-8").split("\n = ")[:40] if part.strip()]
    for tokenizer in (gpt2, Tokenizer(gpt2.inner, replace(gpt2.policy, prepend_bos=False))):
        packed = pack(documents, tokenizer, length=128, held_out=0.2)
        train, kept = literal(documents, tokenizer, 128, 0.2)
        assert packed.train.dtype == np.uint16
        assert packed.train.tolist() == train
        assert packed.held_out.tolist() == kept
        assert len(train) > 30
        assert len(kept) > 3


def test_the_reviews_of_imdb_are_packed_in_memory_as_in_a_file(shared, gpt2):
    corpus = Corpus(source=str(shared / "data" / "imdb" / "sample.csv"), documents=400)
    held = pack(corpus, gpt2, length=256, held_out=0.1)
    mapped = pack(corpus, gpt2, length=256, held_out=0.1, max_bytes=10_000)
    assert_same(held, mapped)
    assert isinstance(mapped.train, np.memmap)
    assert held.n_documents + held.n_held_out_documents == 400
    assert held.n_bytes + held.n_held_out_bytes == sum(len(text.encode()) for text in corpus)
    assert (held.train[:, 0] == gpt2.bos_token_id).all()
    assert not (held.train[:, 1] == gpt2.bos_token_id).any()
    # All but separators and the unfinished row.
    assert held.n_tokens - 256 < (held.train[:, 1:] != gpt2.bos_token_id).sum() <= held.n_tokens
