import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pellucid.base.errors import CheckpointError
from pellucid.pretrained.files import TensorFile, find_weights, held_weights, read_json, write_tensors
from tests.pretrained.checkpoints import tensor_file

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(4.0) + 10}


def whole(stored):
    out = torch.empty(stored.shape, dtype=stored.dtype)
    stored.read(out)
    return out


def refused(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        TensorFile(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool])
def test_tensors_of_the_reference_writer_are_read_and_mapped(path, dtype):
    written = {"x": torch.tensor([[1, 0], [3, 4], [0, 6]]).to(dtype), "s": torch.tensor(1).to(dtype)}
    save_file(written, path)
    tensors = TensorFile(path).tensors
    assert tensors.keys() == written.keys()
    for name, tensor in written.items():
        assert torch.equal(whole(tensors[name]), tensor)
        mapped = tensors[name].mapped()
        assert mapped is not None and torch.equal(mapped, tensor)


def test_a_piece_is_read_from_where_it_starts(path):
    save_file(TENSORS, path)
    piece = torch.empty(3)
    TensorFile(path).tensors["a"].read(piece, 2)
    assert piece.tolist() == [2, 3, 4]


def test_what_is_written_into_a_mapped_tensor_never_reaches_the_file(path):
    save_file(TENSORS, path)
    before = path.read_bytes()
    mapped = TensorFile(path).tensors["a"].mapped()
    assert mapped is not None
    mapped.mul_(100)
    assert mapped[1, 2] == 500
    assert path.read_bytes() == before


def test_a_file_that_may_only_be_read_is_mapped(path):
    save_file(TENSORS, path)
    os.chmod(path, 0o444)
    mapped = TensorFile(path).tensors["b"].mapped()
    assert mapped is not None
    mapped.zero_()


def test_a_tensor_at_an_odd_byte_is_read_but_not_mapped(path):
    data = tensor_file(TENSORS)
    length = int.from_bytes(data[:8], "little")
    padded = data[8 : 8 + length] + b" " * (-length % 4 + 1)
    path.write_bytes(len(padded).to_bytes(8, "little") + padded + data[8 + length :])
    stored = TensorFile(path).tensors["a"]
    assert stored.mapped() is None
    assert torch.equal(whole(stored), TENSORS["a"])


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=4),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_what_is_written_is_read_by_the_reference(shapes, dtype, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    tensors = {f"t{i}": torch.randn(shape).to(dtype) for i, shape in enumerate(shapes)}
    write_tensors(path, {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, tensors.__getitem__)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    ours = TensorFile(path).tensors
    assert all(torch.equal(whole(ours[name]), tensors[name]) for name in tensors)


@given(cut=st.integers(0, 200))
def test_a_file_that_was_cut_off_is_refused(cut, tmp_path_factory):
    data = tensor_file(TENSORS)
    said = refused(data[: min(cut, len(data) - 1)], tmp_path_factory.mktemp("cut") / "model.safetensors")
    assert "get it again" in said


def test_a_file_that_was_cut_off_is_refused_with_the_tensor(path):
    said = refused(tensor_file(TENSORS)[:-3], path)
    assert "tensor 'b' ends at byte" in said and "it was cut off" in said


def test_a_file_that_shrinks_while_it_is_read_is_noticed(path):
    save_file(TENSORS, path)
    stored = TensorFile(path).tensors["a"]
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match="must stay as it is while it is read"):
        whole(stored)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 20]}}, "takes 24 bytes, its header gives it 20"),
        ({"a": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 24]}}, "takes 32 bytes, its header gives it 24"),
        ({"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 24]}}, "takes 12 bytes"),
        (
            {"a": {"dtype": "Q4", "shape": [2, 3], "data_offsets": [0, 24]}},
            "got 'Q4'; get a checkpoint that is not quant",
        ),
        (
            {"a": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}},
            "must have dtype, shape and data_offsets",
        ),
        (
            {"a": {"dtype": "F32", "shape": [2.0, 3], "data_offsets": [0, 24]}},
            "must have dtype, shape and data_offsets",
        ),
        ({"a": {"dtype": "F32", "shape": [2, 3]}}, "must have dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}}, "header gives it -24"),
        ({"a": 7}, "its header says 7"),
        (
            {
                "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                "b": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]},
            },
            "tensor 'b' at byte",
        ),
        (
            {
                "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
                "b": {"dtype": "F32", "shape": [3], "data_offsets": [28, 40]},
            },
            "leaves a gap after tensor 'a'",
        ),
        ({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, "has 16 bytes more"),
        ({}, "must end with its last tensor"),
    ],
)
def test_a_header_that_cannot_be_is_refused(path, header, said):
    assert said in refused(tensor_file(TENSORS, header), path)


@given(position=st.integers(0, 207), flip=st.integers(1, 255))
def test_a_flipped_byte_in_the_header_gives_a_clear_error_or_other_names(position, flip, tmp_path_factory):
    path = tmp_path_factory.mktemp("flipped") / "model.safetensors"
    data = bytearray(tensor_file(TENSORS))
    header = 8 + int.from_bytes(data[:8], "little")
    data[position % header] ^= flip
    path.write_bytes(data)
    try:
        tensors = TensorFile(path).tensors
    except CheckpointError as error:
        assert str(path) in str(error)
    else:
        for tensor in tensors.values():
            whole(tensor)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "its header should take 0 bytes, the file has 0"),
        (b"\x05", "the file has 1"),
        (b"\xff" * 20, "was cut off or damaged"),
        (b"\x08" + b"\0" * 7 + b"not json", "the header must be JSON"),
        (b"\x02" + b"\0" * 7 + b"[]", "the header must be a table, got list"),
        (b"\x04" + b"\0" * 7 + b"\xff\xfe\xfd\xfc", "the header must be JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "only a pointer to them; run: git lfs pull"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(path, data, said):
    assert said in refused(data, path)


def test_a_name_that_stands_twice_is_refused(path):
    entry = '{"dtype": "F32", "shape": [], "data_offsets": [0, 4]}'
    text = f'{{"a": {entry}, "a": {entry}}}'.encode()
    said = refused(len(text).to_bytes(8, "little") + text + b"\0" * 4, path)
    assert "'a' stands there twice" in said


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    with pytest.raises(CheckpointError, match="must hold weights .model.safetensors, .* found nothing"):
        find_weights(tmp_path)
    (tmp_path / "flax_model.msgpack").touch()
    with pytest.raises(CheckpointError, match="found flax_model.msgpack; save or download"):
        find_weights(tmp_path)


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "model-1-of-2.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "model-2-of-2.safetensors")
    write_index(tmp_path, {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"})
    return tmp_path


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_read_together(sharded):
    found = find_weights(sharded)
    assert {name: whole(found[name]).tolist() for name in found} == {name: t.tolist() for name, t in TENSORS.items()}
    assert found["b"].where.endswith("model-2-of-2.safetensors")


def test_a_missing_shard_is_named_with_a_tensor_of_it(sharded):
    (sharded / "model-2-of-2.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match="model-2-of-2.safetensors must lie beside its index .* tensor 'b' is in it"
    ):
        find_weights(sharded)


def test_a_shard_elsewhere_is_refused(sharded):
    write_index(sharded, {"a": "../model-1-of-2.safetensors"})
    with pytest.raises(CheckpointError, match="must lie beside its index"):
        find_weights(sharded)


def test_a_shard_without_its_tensor_is_refused(sharded):
    write_index(sharded, {"a": "model-1-of-2.safetensors", "c": "model-2-of-2.safetensors"})
    with pytest.raises(
        CheckpointError, match="model-2-of-2.safetensors must hold tensor 'c', as model.safetensors.index"
    ):
        find_weights(sharded)


def test_a_tensor_in_two_shards_is_refused(sharded):
    save_file(TENSORS, sharded / "model-2-of-2.safetensors")
    with pytest.raises(CheckpointError, match="tensor 'a' must be in one shard, it is in two"):
        find_weights(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_an_index_without_its_table_is_refused(sharded, weight_map):
    write_index(sharded, weight_map)
    with pytest.raises(CheckpointError, match="must have a table `weight_map`"):
        find_weights(sharded)


class Evil:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_refused_and_never_run(tmp_path, zipped):
    path, mark = tmp_path / "pytorch_model.bin", tmp_path / "it-ran"
    torch.save({"a": torch.ones(2), "b": Evil(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="pytorch_model.bin must hold nothing but tensors.*as safetensors"):
        find_weights(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("keep", [0, 10, 300])
def test_a_pickle_that_was_cut_off_is_refused(tmp_path, keep):
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="pytorch_model.bin"):
        find_weights(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [([1, 2], "it holds a list"), ({"model": {"a": torch.ones(1)}}, "it holds a dict under 'model'")],
)
def test_a_pickle_of_something_else_is_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=f"must hold a table of tensors.*{said}"):
        find_weights(tmp_path)


def test_held_tensors_are_copied_never_mapped():
    stored = held_weights(TENSORS, "memory")["a"]
    assert stored.mapped() is None
    out = whole(stored)
    out.zero_()
    assert TENSORS["a"].sum() == 15
    piece = torch.empty(2)
    stored.read(piece, 3)
    assert piece.tolist() == [3, 4]


@pytest.mark.parametrize(("text", "said"), [("{", "must be readable JSON"), ("[]", "must be a JSON table, got list")])
def test_broken_json_is_refused_with_its_path(tmp_path, text, said):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=f"config.json {said}"):
        read_json(path)
    with pytest.raises(CheckpointError, match="nothing.json must be readable JSON"):
        read_json(tmp_path / "nothing.json")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="gone.safetensors must be a file that can be read"):
        TensorFile(tmp_path / "gone.safetensors")
