import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pellucid.pretrained.rules as rules
from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.pretrained.files import held_weights
from pellucid.pretrained.rules import Format, Reading, Rule, checked, places, read_into

PACKED = Rule(
    "h.{l}.qkv",
    ("layers.{l}.q", "layers.{l}.k", "layers.{l}.v"),
    "d_model (part head d_head) -> part head d_model d_head",
)
BY_HEAD = Rule("h.{l}.qkv", PACKED.ours, "(head part d_head) d_model -> part head d_model d_head")
BY_PART = Rule("h.{l}.qkv", PACKED.ours, "(part head d_head) d_model -> part head d_model d_head")
TURNED = Rule("out", ("u",), "d_model d_vocab -> d_model d_vocab", "d_vocab d_model")
READING = Reading(dtype=torch.float32, device=torch.device("cpu"))


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.empty(shape, device="meta")) for _ in range(3))


class Model(nn.Module):
    def __init__(self, shape, n_layers=2):
        super().__init__()
        self.layers = nn.ModuleList(Layer(shape) for _ in range(n_layers))
        self.u = nn.Parameter(torch.empty(5, 7, device="meta"))


def shapes_of(model):
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def filled(rule, shape, reading=READING, dtype=torch.float32):
    """A model read through the rule, and the stored tensors that it was read from."""
    model = Model(shape)
    found = places((rule, TURNED), shapes_of(model), 2)
    state = {place.theirs: torch.randn(place.shape).to(dtype) for place in found}
    weights = held_weights(state, "memory")
    read_into(model, checked(Format(rules=(rule, TURNED)), found, weights, where="memory"), weights, reading)
    return model, state, found


@pytest.mark.parametrize("rule", [PACKED, BY_HEAD, BY_PART], ids=lambda rule: rule.pattern.split(" ->")[0])
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4)),
    buffer=st.integers(1, 400),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_packed_tensor_is_taken_apart_whatever_the_buffer_holds(rule, sizes, buffer, dtype):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "BUFFER", buffer)
        model, state, found = filled(rule, sizes, dtype=dtype)
    for layer in range(2):
        for letter, view in zip("qkv", found[layer].views(state[f"h.{layer}.qkv"].float()), strict=True):
            assert torch.equal(getattr(model.layers[layer], letter), view)
    assert torch.equal(model.u, state["out"].float())


@given(rule=st.sampled_from([PACKED, BY_HEAD, BY_PART]), sizes=st.tuples(*[st.integers(1, 5)] * 3))
def test_a_rule_run_back_gives_the_stored_tensor(rule, sizes):
    model, state, found = filled(rule, sizes)
    parameters = dict(model.named_parameters())
    for place in found:
        assert torch.equal(place.stored([parameters[name] for name in place.ours]), state[place.theirs])


@pytest.mark.parametrize("buffer", [8, 50, 10**6])
def test_other_dtypes_go_through_the_buffer(monkeypatch, buffer):
    monkeypatch.setattr(rules, "BUFFER", buffer)
    rule = Rule("x", ("u",), "a b -> b a")
    model = nn.Module()
    model.u = nn.Parameter(torch.empty(3, 11, device="meta"))
    stored = torch.randn(11, 3, dtype=torch.float64)
    weights = held_weights({"x": stored}, "memory")
    wanted = checked(Format(rules=(rule,)), places((rule,), {"u": (3, 11)}, 0), weights, where="memory")
    read_into(model, wanted, weights, READING)
    assert torch.equal(model.u, stored.T.float())
    assert model.u.requires_grad


def test_each_part_has_memory_of_its_own_in_the_files_order():
    model, _, _ = filled(PACKED, (2, 6, 4))
    q, k = model.layers[0].q, model.layers[0].k
    assert q.stride() == (4, 8, 1)
    assert q.untyped_storage().data_ptr() != k.untyped_storage().data_ptr()
    assert q.untyped_storage().nbytes() == 2 * 6 * 4 * 4


def test_another_order_in_memory_is_kept():
    model, _, _ = filled(PACKED, (2, 6, 4))
    assert model.u.stride() == (1, 5)


def test_rules_without_their_parameter_are_left_out():
    found = places((PACKED, TURNED, Rule("bias", ("b",), "x -> x")), shapes_of(Model((1, 2, 3))), 2)
    assert [place.theirs for place in found] == ["h.0.qkv", "h.1.qkv", "out"]
    assert found[0].shape == (2, 9)


def test_a_parameter_without_a_rule_is_named():
    with pytest.raises(CheckpointError, match="every parameter must have a place in the file's format, 'u' has none"):
        places((PACKED,), shapes_of(Model((1, 2, 3))), 2)


def check(form, state, shapes, **options):
    found = places(form.rules, shapes, 2)
    return checked(form, found, held_weights(state, "x.safetensors"), where="folder", **options)


FORM = Format(
    rules=(Rule("model.w.{l}", ("w{l}",), "a b -> b a"), Rule("head", ("u",), "a -> a")),
    prefix="model.",
    unread={"model.mask.{l}": "a mask"},
    copies={"head": "model.w.0"},
)
SHAPES = {"w0": (2, 3), "w1": (2, 3), "u": (4,)}
STATE = {"model.w.0": torch.ones(3, 2), "model.w.1": torch.ones(3, 2), "head": torch.ones(4)}


def test_names_are_taken_with_or_without_the_prefix():
    assert list(check(FORM, STATE, SHAPES)) == ["model.w.0", "model.w.1", "head"]
    bare = {name.removeprefix("model."): tensor for name, tensor in STATE.items()}
    assert list(check(FORM, bare | {"mask.17": torch.ones(1)}, SHAPES)) == ["w.0", "w.1", "head"]


def test_missing_tensors_are_named_with_shape_and_parameter():
    with pytest.raises(CheckpointError) as caught:
        check(FORM, {"model.w.0": torch.ones(3, 2)}, SHAPES)
    assert str(caught.value).startswith(
        "folder must hold tensor 'model.w.1' [3, 2], for w1; it is missing, and 1 more are; nearest: model.w.0"
    )


def test_a_wrong_shape_is_named_with_both():
    with pytest.raises(
        CheckpointError, match=r"x.safetensors: tensor 'head' must have shape \[4\], for u .* got \[5\]"
    ):
        check(FORM, STATE | {"head": torch.ones(5)}, SHAPES)


def test_unexpected_tensors_are_named():
    extra = {"model.w.2": torch.ones(7), "model.mask.0": torch.ones(1), "score": torch.ones(2)}
    with pytest.raises(CheckpointError) as caught:
        check(FORM, STATE | extra, SHAPES)
    assert "x.safetensors must hold nothing but" in str(caught.value)
    assert "tensor 'model.w.2' [7] is unexpected, and 1 more are; nearest: model.w.1, model.w.0" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"'score' \[2\] is unexpected"):
        check(FORM, STATE | extra, SHAPES, left_out=["model.w.2"])


def test_what_a_format_passes_over_is_matched_as_a_whole_name():
    check(FORM, STATE | {"model.mask.12": torch.ones(1)}, SHAPES)
    for name in ("model.mask.x", "model.mask.1.bias", "modelxmask.1"):
        with pytest.raises(CheckpointError, match="is unexpected"):
            check(FORM, STATE | {name: torch.ones(1)}, SHAPES)


@pytest.mark.parametrize("buffer", [8, 10**6])
def test_a_repeated_tensor_must_be_equal(monkeypatch, buffer):
    monkeypatch.setattr(rules, "BUFFER", buffer)
    tied = {name: shape for name, shape in SHAPES.items() if name != "u"}
    check(FORM, STATE | {"head": torch.ones(3, 2)}, tied)
    for other in (torch.ones(3, 2).index_fill(0, torch.tensor(2), 0.5), torch.ones(2, 3), torch.ones(3, 2).double()):
        with pytest.raises(CheckpointError, match="tensor 'head' must equal 'model.w.0', since the configuration ties"):
            check(FORM, STATE | {"head": other}, tied)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.int64])
def test_quantised_weights_are_refused(dtype):
    with pytest.raises(CheckpointError, match=r"memory: tensor 'h.0.qkv' must be float64, .*not quantised"):
        filled(PACKED, (1, 2, 3), dtype=dtype)


def test_what_cannot_be_mapped_is_refused_where_mapping_was_asked_for():
    reading = Reading(dtype=torch.float32, device=torch.device("cpu"), mmap=True)
    with pytest.raises(
        ArgumentError, match="mmap=True needs tensors that can be used as they lie.*'h.0.qkv' of memory"
    ):
        filled(PACKED, (1, 2, 3), reading=reading)
    filled(PACKED, (1, 2, 3), reading=Reading(dtype=torch.float32, device=torch.device("cpu"), mmap=None))
