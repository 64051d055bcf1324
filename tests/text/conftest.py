"""Real tokenizers, read once, and the same read by transformers."""

import json
from pathlib import Path

import pytest

from pellucid.text.read import read_tokenizer
from tests.text.wordpiece import WORDPIECE


@pytest.fixture(scope="session")
def gpt2(shared):
    return read_tokenizer(shared / "data" / "gpt2-tokenizer")


@pytest.fixture(scope="session")
def stories(shared):
    return read_tokenizer(shared / "data" / "stories260k")


@pytest.fixture(scope="session")
def characters(shared):
    return read_tokenizer(shared / "data" / "shakespeare-char-gpt")


@pytest.fixture
def folder(tmp_path):
    """Writes files, given by name, into a folder: text as it is, anything else as JSON."""

    def write(**files) -> Path:
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def wordpiece(folder):
    return folder(vocab__txt="\n".join(WORDPIECE) + "\n")
