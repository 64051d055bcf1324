"""The activations of a run: found by name, moved, sliced, saved."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from pellucid import ActivationCache
from pellucid.base.errors import ArgumentError, CheckpointError, OutputError, UnknownNameError
from pellucid.hooks.names import axes
from tests.models import CONFIGS, model_of, tokens_of, unchecked

MODEL = model_of("gpt2")
PATTERN = "blocks.0.attn.hook_pattern"


@pytest.fixture
def cache():
    return MODEL.run_with_cache(tokens_of())[1]


def test_an_activation_is_found_by_full_name_short_name_and_shorthand(cache):
    assert cache[PATTERN] is cache["pattern", 0] is cache["pattern", 0, "attn"] is cache["attn", 0] is cache["pattern0"]
    assert cache["pattern", -2] is cache[PATTERN]
    assert cache["resid_post", -1] is cache["blocks.1.hook_resid_post"]
    assert cache["embed"] is cache["hook_embed"]
    assert cache["scale"] is cache["ln_final.hook_scale"]
    assert cache["scale", 1, "ln2"] is cache["blocks.1.ln2.hook_scale"]
    assert cache["normalized", 0, "ln1"] is cache["blocks.0.ln1.hook_normalized"]
    assert cache["post", 1] is cache["mlp_post", 1] is cache["blocks.1.mlp.hook_post"]


def test_it_is_a_mapping(cache):
    assert len(cache) == len(list(cache)) == len(cache.keys()) == len(cache.items())
    assert list(cache)[:2] == ["hook_embed", "hook_pos_embed"]
    assert dict(cache) == cache.cache_dict
    assert cache.get("zz", None) is None
    for key in (PATTERN, ("pattern", 0), "embed", ("pattern", -1)):
        assert key in cache
    for key in ("zz", ("pattern", 2), ("zz", 0), 7, None):
        assert key not in cache
    assert "ActivationCache of 38 activations" in repr(cache)
    assert f"{cache.nbytes:,} bytes" in repr(cache)


def test_an_activation_that_was_left_out_is_told_from_one_that_is_computed_on_demand_and_one_that_there_is_not():
    _, cache = MODEL.run_with_cache(tokens_of(), names_filter=["pattern"])
    with pytest.raises(UnknownNameError, match="blocks.0.attn.hook_z was not kept in this run; leave names_filter and"):
        cache["z", 0]
    with pytest.raises(
        UnknownNameError, match="hook_result is computed only for who names it, .*names_filter='blocks.1.attn"
    ):
        cache["result", 1]
    with pytest.raises(KeyError, match=r"the cache has no \('patern', 0\); nearest: blocks.0.attn.hook_pattern"):
        cache["patern", 0]
    with pytest.raises(UnknownNameError, match=r"the cache has no \('pattern', 7\); layers are 0\.\.1"):
        cache["pattern", 7]


def test_so_it_is_where_no_model_is_known():
    _, cache = MODEL.run_with_cache(tokens_of(), names_filter=["pattern"])
    alone = ActivationCache(cache.cache_dict)
    assert alone["pattern", -1] is cache["pattern", 1]
    with pytest.raises(UnknownNameError, match="hook_result is computed only for who names it"):
        alone["result", 1]
    with pytest.raises(
        UnknownNameError, match="the cache has no .'z', 0.; nearest: blocks.0.attn.hook_pattern, blocks.1"
    ):
        alone["z", 0]


def test_the_batch_axis_can_be_taken_away_of_one_prompt():
    _, cache = MODEL.run_with_cache(tokens_of(batch=1))
    pattern = cache["pattern", 0]
    assert cache.remove_batch_dim() is cache
    assert torch.equal(cache["pattern", 0], pattern[0])
    assert not cache.has_batch_dim
    assert torch.equal(cache.remove_batch_dim()["pattern", 0], pattern[0])


def test_it_cannot_be_of_several_and_nothing_is_changed(cache):
    with pytest.raises(ArgumentError, match="remove_batch_dim needs a batch of one prompt, got 2 at hook_embed"):
        cache.remove_batch_dim()
    assert cache.has_batch_dim and cache["embed"].shape == (2, 7, 10)


def test_some_prompts(cache):
    for wanted in ([1, 0], slice(1, 2), (0,), None):
        chosen = cache.apply_slice_to_batch_dim(wanted)
        index = [0, 1] if wanted is None else list(wanted) if isinstance(wanted, tuple) else wanted
        assert all(torch.equal(chosen[name], x[index]) for name, x in cache.items())
        assert chosen.has_batch_dim
    one = cache.apply_slice_to_batch_dim(1)
    assert not one.has_batch_dim
    assert torch.equal(one["z", 0], cache["z", 0][1])
    with pytest.raises(
        ArgumentError, match="a slice of prompts needs a batch axis, but this cache has none; slice before"
    ):
        one.apply_slice_to_batch_dim(0)


@pytest.mark.parametrize("batch_dim", [True, False])
@pytest.mark.parametrize("wanted", [-1, [0, 3], slice(2, 5), None])
def test_some_positions(batch_dim, wanted):
    _, cache = MODEL.run_with_cache(
        tokens_of(batch=1), remove_batch_dim=not batch_dim, return_type="loss", incl_bwd=True
    )
    chosen = cache.apply_slice_to_pos_dim(wanted)
    for name, x in cache.items():
        expected = x if batch_dim else x[None]
        index = slice(None) if wanted is None else wanted
        expected = expected[:, :, index] if "q_pos" in axes(name) else expected[:, index]
        assert torch.equal(chosen[name], expected if batch_dim else expected[0]), name


def test_it_moves_and_takes_the_model_along_if_asked(cache):
    model = model_of("gpt2")
    _, own = model.run_with_cache(tokens_of())
    assert own.to("meta") is own
    assert all(x.is_meta for x in own.values())
    assert not model.W_E.is_meta
    own.to("meta", move_model=True)
    assert model.W_E.is_meta
    ActivationCache(cache.cache_dict).to("cpu", move_model=True)


def test_memory_that_activations_share_is_counted_once(cache):
    streams = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"]
    shared = ActivationCache({name: cache[name] for name in streams})
    assert shared.nbytes == cache[streams[0]].numel() * 4
    assert cache.nbytes < sum(x.numel() * 4 for x in cache.values())


# On disk


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_saved_is_what_is_loaded(tmp_path, kind, dtype):
    model = model_of(kind, dtype=dtype)
    _, cache = model.run_with_cache(tokens_of(kind), names_filter=model.hook_names)
    cache.save(tmp_path / "new" / "cache")
    found = ActivationCache.load(tmp_path / "new" / "cache", model)
    assert list(found) == list(cache)
    for name, x in cache.items():
        assert found[name].dtype == x.dtype
        assert torch.equal(found[name], x)
    assert found.has_batch_dim
    with pytest.raises(UnknownNameError, match="nearest"):
        found["patern", 0]


def test_a_cache_without_batch_axis_is_loaded_so(tmp_path):
    _, cache = MODEL.run_with_cache(tokens_of(batch=1), remove_batch_dim=True, keep_graph=True)
    cache.save(tmp_path)
    found = ActivationCache.load(tmp_path)
    assert not found.has_batch_dim
    assert torch.equal(found["z", 1], cache["z", 1])
    assert not found["z", 1].requires_grad


def test_it_lies_in_safetensors_files_one_for_each_layer(tmp_path, cache):
    cache.save(tmp_path / "cache")
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == ["index.json", "layer-0.safetensors", "layer-1.safetensors", "outside.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]


def test_saving_again_replaces_what_was_there(tmp_path, cache):
    cache.save(tmp_path)
    fewer = MODEL.run_with_cache(tokens_of(seed=1), names_filter="pattern")[1]
    fewer.save(tmp_path)
    found = ActivationCache.load(tmp_path)
    assert list(found) == list(fewer)
    assert torch.equal(found["pattern", 0], fewer["pattern", 0])


def test_a_place_that_cannot_be_written_is_refused(tmp_path, cache):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        cache.save(tmp_path / "file" / "cache")


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def change_index(folder, change):
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))


DAMAGE = {
    "no folder": shutil.rmtree,
    "no index": lambda folder: (folder / "index.json").unlink(),
    "index cut off": lambda folder: cut(folder / "index.json"),
    "index a list": lambda folder: (folder / "index.json").write_text("[1]"),
    "no list of files": lambda folder: change_index(folder, lambda index: index.pop("files")),
    "files a list": lambda folder: change_index(folder, lambda index: index.update(files=["a"])),
    "batch not said": lambda folder: change_index(folder, lambda index: index.pop("has_batch_dim")),
    "file missing": lambda folder: (folder / "layer-1.safetensors").unlink(),
    "file cut off": lambda folder: cut(folder / "layer-0.safetensors"),
    "file empty": lambda folder: (folder / "layer-0.safetensors").write_bytes(b""),
    "tensor missing": lambda folder: change_index(
        folder, lambda index: index["files"].update({"blocks.0.hook_x": "layer-0.safetensors"})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused_and_named(tmp_path, cache, damage):
    folder = tmp_path / "cache"
    cache.save(folder)
    DAMAGE[damage](folder)
    with pytest.raises(
        CheckpointError, match="cache must be a folder that ActivationCache.save wrote, .*; save it again"
    ):
        ActivationCache.load(folder)


def test_it_can_be_pickled(cache):
    alone = ActivationCache(cache.cache_dict)
    found = pickle.loads(pickle.dumps(alone))
    assert torch.equal(found["pattern", 1], cache["pattern", 1])


def test_layers_and_slices_may_be_numbers_of_numpy_and_torch(cache):
    assert cache["pattern", np.int64(-1)] is cache["pattern", torch.tensor(1)] is cache["pattern", 1]
    assert ("pattern", np.int64(1)) in cache
    last = cache.apply_slice_to_pos_dim(np.int64(-1))
    assert torch.equal(last["z", 0], cache["z", 0][:, -1])
    first = cache.apply_slice_to_batch_dim(torch.tensor(0))
    assert not first.has_batch_dim and torch.equal(first["z", 0], cache["z", 0][0])
    with pytest.raises(ArgumentError, match="layer must be given by number, got the boolean True"):
        cache["pattern", True]


@pytest.mark.parametrize("key", [0, (1, 2), (), ("pattern", 0, "attn", "x"), None])
def test_what_names_nothing_is_refused_and_not_here(cache, key):
    with unchecked():
        assert key not in cache
        with pytest.raises(UnknownNameError, match=r"an activation is named by a string, or by a shorthand \(name"):
            cache[key]


def test_positions_are_sliced_only_where_the_axis_is(cache):
    last = cache.apply_slice_to_pos_dim(-1)
    with pytest.raises(
        ArgumentError, match=r"axes batch pos d_model, got \[2, 10\] at hook_embed; .*slice by \[number\]"
    ):
        last.apply_slice_to_pos_dim(0)
    kept = cache.apply_slice_to_pos_dim([-1]).apply_slice_to_pos_dim(0)
    assert torch.equal(kept["z", 0], cache["z", 0][:, -1])


def test_a_slice_outside_is_refused(cache):
    with pytest.raises(ArgumentError, match=r"a position must lie in 0\.\.6, got 99; choose one that was run"):
        MODEL.run_with_cache(tokens_of(), pos_slice=99)
    with pytest.raises(ArgumentError, match=r"a position must lie in 0\.\.6, got -8"):
        cache.apply_slice_to_pos_dim([0, -8])
    with pytest.raises(ArgumentError, match=r"a prompt must lie in 0\.\.1, got 5"):
        cache.apply_slice_to_batch_dim(5)
