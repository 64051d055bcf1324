import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import errors

from pellucid.base.errors import CheckpointError
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.hub import download
from pellucid.pretrained.load import load
from pellucid.pretrained.processing import Processing
from tests.pretrained.checkpoints import scrambled
from tests.pretrained.test_export import GPT2_LIKE

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(home: Path, repository: str) -> Path:
    """A cache of the hub as huggingface_hub lays it out, with a model in it; its snapshot folder."""
    root = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    save_pretrained(scrambled(GPT2_LIKE), root / "made", family="gpt2")
    (root / "blobs").mkdir()
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted((root / "made").iterdir())):
        path.rename(root / "blobs" / str(i))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(i))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def is_mapped(model):
    """Whether Q and K still lie beside each other, as in the file."""
    attn = model.blocks[0].attn
    return attn.W_Q.untyped_storage().data_ptr() == attn.W_K.untyped_storage().data_ptr()


def test_the_cache_is_used_without_a_network(cache):
    snapshot = cached(cache, "somebody/tiny")
    assert download("somebody/tiny") == (snapshot, COMMIT)
    loaded = load("somebody/tiny", processing=Processing.none())
    assert loaded.record.revision == COMMIT
    assert torch.equal(loaded.model.W_E, scrambled(GPT2_LIKE).W_E)


def test_files_of_the_cache_are_mapped_and_never_changed(cache):
    snapshot = cached(cache, "somebody/tiny")
    before = (snapshot / "model.safetensors").read_bytes()
    load("somebody/tiny")  # processed in place
    model = load("somebody/tiny", processing=Processing.none()).model
    assert is_mapped(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert (snapshot / "model.safetensors").read_bytes() == before


def test_a_folder_of_ones_own_is_not_mapped(tmp_path):
    save_pretrained(scrambled(GPT2_LIKE), tmp_path, family="gpt2")
    assert not is_mapped(load(tmp_path, processing=Processing.none()).model)


def test_offline_is_respected_by_a_process_that_says_so(tmp_path):
    cached(tmp_path, "somebody/tiny")
    code = "from pellucid.pretrained.load import load; print(load('somebody/tiny').record.revision)"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == COMMIT


def test_a_model_that_is_not_in_the_cache_cannot_be_had_without_a_network(cache):
    with pytest.raises(CheckpointError) as caught:
        load("somebody/other")
    assert "'somebody/other' is neither here nor in the hub's cache, and the hub cannot be reached: go online" in str(
        caught.value
    )
    with pytest.raises(CheckpointError, match="'gpt2-smoll' is neither here.*; nearest: gpt2-small"):
        load("gpt2-smoll")
    with pytest.raises(CheckpointError, match="'distilgpt2' is neither here .* or give a folder that holds the model$"):
        load("distil-gpt2")


def test_a_snapshot_without_weights_says_so(cache):
    snapshot = cached(cache, "somebody/tiny")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="must hold weights .*found config.json"):
        load("somebody/tiny")


def test_a_snapshot_without_a_configuration_says_so(cache):
    snapshot = cached(cache, "somebody/tiny")
    (snapshot / "config.json").unlink()
    with pytest.raises(CheckpointError, match="somebody/tiny must hold a config.json, on the hub and in its cache"):
        load("somebody/tiny")


def test_pickles_are_asked_for_only_without_safetensors(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    download("somebody/old")
    assert ["model.safetensors" in patterns for patterns in asked] == [True, False]
    assert ["pytorch_model.bin" in patterns for patterns in asked] == [False, True]
    assert all({"config.json", "tokenizer.json", "vocab.json", "merges.txt"} <= set(patterns) for patterns in asked)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    asked.clear()
    download("somebody/new")
    assert len(asked) == 1


def answer(status: int):
    """An error of the hub with its answer."""
    import httpx2

    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            lambda: errors.GatedRepoError("gated", response=answer(403)),
            "needs its owner's permission: accept its terms on",
        ),
        (lambda: errors.RepositoryNotFoundError("none", response=answer(404)), "check the spelling, or for a private"),
        (
            lambda: errors.RevisionNotFoundError("none", response=answer(404)),
            "org/m has no revision 'v9'; leave it out",
        ),
        (lambda: errors.HfHubHTTPError("busy", response=answer(503)), "cannot be had from the hub: .*try again later"),
        (lambda: errors.LocalEntryNotFoundError("none"), "'org/m' at revision 'v9' is neither here nor in the hub's"),
        (lambda: OSError("no space left"), "org/m at revision 'v9' cannot be had from the hub: no space left"),
        (lambda: __import__("httpx2").ProxyError("proxy"), "cannot be had from the hub: proxy"),
    ],
)
def test_each_failure_of_the_hub_says_what_to_do(monkeypatch, error, said):
    def snapshot_download(*arguments, **options):
        raise error()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(CheckpointError, match=said):
        download("org/m", revision="v9")


def test_a_name_that_the_hub_cannot_have_is_refused():
    with pytest.raises(CheckpointError, match="'a/b/c' must be a folder that exists, .* and is none$"):
        download("a/b/c")


def test_a_download_that_ended_early_is_read_as_far_as_it_goes(tmp_path, monkeypatch):
    incomplete = getattr(errors, "IncompleteSnapshotError", None)
    if incomplete is None:
        pytest.skip("this version of huggingface_hub gives partial snapshots without an error")
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").touch()

    def snapshot_download(*arguments, **options):
        raise incomplete("half", snapshot_path=str(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert download("org/m")[0] == tmp_path
