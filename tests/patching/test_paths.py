"""Edges are what three passes with hooks make of them, on every kind of model."""

import pytest
import torch

from pellucid import HookedTransformer, patching
from pellucid.base.errors import ArgumentError, OutputError, UnknownNameError
from pellucid.patching.selections import selection
from tests.models import CONFIGS, config_of, model_of
from tests.reference.paths import edge

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}


def pairs_of(seed=0, n=2, length=6, first=2, d_vocab=17):
    draw = torch.Generator().manual_seed(seed)
    clean = torch.randint(d_vocab, (n, length), generator=draw)
    corrupted = clean.clone()
    corrupted[:, first] = (clean[:, first] + 3) % d_vocab
    corrupted[:, -2] = (clean[:, -2] + 1) % d_vocab
    return patching.pairs(clean, corrupted, answer=[1, 2][:n], wrong=[3, 4][:n])


def everything(model, *, over=None):
    """Senders and receivers of a model, all kinds that it has."""
    mlp = model.config.mlp is not None
    senders = patching.embed() + patching.heads()
    receivers = patching.heads() + patching.logits()
    if mlp:
        senders = senders + patching.mlps() + "L0N3 + L1N5"
        receivers = receivers + patching.mlps()
    return senders, receivers


def literal(model, pairs, prompt, *, direction="denoise", **how):
    clean, corrupted = pairs.clean[prompt : prompt + 1], pairs.corrupted[prompt : prompt + 1]
    base, donor = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    right, wrong = int(pairs.answer[prompt, 0]), int(pairs.wrong[prompt, 0])
    return lambda sender, receiver, name, pos=None: edge(
        *(model, base, donor, lambda logits: float(logits[0, -1, right] - logits[0, -1, wrong])),
        *(sender, receiver, name),
        pos=pos,
        **how,
    )


def agree(model, pairs, found, of, prompt, tolerance, *, step=1):
    """Every step-th edge; those that cannot be are NaN."""
    labels = [labels_of(found, axis) for axis in found.dims[1:]]
    grouped = any(".kv" in label for label in labels[1])
    checked = 0
    for number, at in enumerate(torch.cartesian_prod(*[torch.arange(len(x)) for x in labels]).tolist()):
        names = [x[i] for x, i in zip(labels, at, strict=True)]
        value = float(found.values[(prompt, *at)])
        if value != value:
            assert not possible(*names[:3], grouped)
            continue
        assert possible(*names[:3], grouped), names
        if number % step == 0:
            assert value == pytest.approx(of(*names), abs=tolerance), names
            checked += 1
    assert checked


def possible(sender, receiver, name, grouped=False):
    def layer(label):
        return int(label.removeprefix("mlp").removeprefix("L").split(".")[0].split("N")[0])

    if (name in "qkv") != (receiver[0].isdigit()) or (name == "mlp") != receiver.startswith("mlp"):
        return False
    if grouped and name in "qkv" and (name == "q") == (".kv" in receiver):
        return False
    if sender == "embed" or receiver == "logits":
        return name == "logits" or receiver != "logits"
    head = sender[0].isdigit()
    return layer(sender) < layer(receiver) or (layer(sender) == layer(receiver) and head and name == "mlp")


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("through", ["edge", "mlps", "all"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
def test_every_edge_is_the_literal_one(kind, through, dtype):
    model = model_of(kind).to(dtype).requires_grad_(False)
    pairs = pairs_of()
    senders, receivers = everything(model)
    found = patching.paths(model, pairs, senders=senders, receivers=receivers, through=through)
    assert found.dims == ("prompt", "sender", "receiver", "input")
    for prompt in range(2):
        agree(model, pairs, found, literal(model, pairs, prompt, through=through), prompt, TOLERANCE[dtype], step=13)


def labels_of(found, axis):
    return list(dict.fromkeys(found.to_frame()[axis].tolist()))


@pytest.mark.parametrize("through", ["edge", "mlps", "all"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_positions_are_told_apart(kind, through):
    model = model_of(kind).double().requires_grad_(False)
    pairs = pairs_of(n=1)
    found = patching.paths(
        model, pairs, senders="embed + 0.1 + mlp0", receivers="heads + mlps + logits", through=through, over="pos"
    )
    assert found.dims == ("prompt", "sender", "receiver", "input", "pos")
    agree(model, pairs, found, literal(model, pairs, 0, through=through), 0, 1e-9, step=7)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "attention only"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_frozen_norm_keeps_its_scale(kind, direction):
    model = model_of(kind).double().requires_grad_(False)
    pairs, (senders, receivers) = pairs_of(seed=1), everything(model)
    found = patching.paths(model, pairs, senders=senders, receivers=receivers, norm="frozen", direction=direction)
    of = literal(model, pairs, 1, frozen=True, direction=direction)
    agree(model, pairs, found, of, 1, 1e-9, step=11)
    other = patching.paths(model, pairs, senders=senders, receivers=receivers, direction=direction)
    assert (abs(found.values - other.values) > 1e-6).any()


def test_positions_have_names_and_lengths_may_differ():
    model = model_of("gpt2").double().requires_grad_(False)
    both = [[1, 2, 3, 4], [5, 6, 7, 8, 9, 10]], [[1, 9, 3, 4], [5, 6, 2, 8, 9, 10]]
    pairs = patching.pairs(*both, answer=[1, 2], wrong=[3, 4], positions={"subject": [1, 2]})
    found = patching.paths(model, pairs, senders="embed + 0.1", receivers="1.2:qk + logits", over="position")
    for prompt, pos in enumerate([1, 2]):
        alone = pairs[prompt : prompt + 1]
        length = int(pairs.lengths[prompt])
        one = patching.pairs(
            *(alone.clean[:, :length], alone.corrupted[:, :length]), answer=alone.answer, wrong=alone.wrong
        )
        of = literal(model, one, 0)
        for sender, receiver, name in [("0.1", "1.2", "q"), ("0.1", "1.2", "k"), ("embed", "logits", "logits")]:
            value = found.sel(sender=sender, receiver=receiver, input=name, position="subject").values[prompt]
            assert value == pytest.approx(of(sender, receiver, name, pos), abs=1e-9)
    with pytest.raises(ArgumentError, match="prompts must have one length to be patched over pos"):
        patching.paths(model, pairs, senders="embed", receivers="logits", over="pos")


def test_a_small_bound_of_memory_changes_no_number():
    model = model_of("gpt2").double().requires_grad_(False)
    pairs, (senders, receivers) = pairs_of(), everything(model)
    for through in ("edge", "all"):
        how = {"senders": senders, "receivers": receivers, "through": through}
        whole = patching.paths(model, pairs, **how)
        parted = patching.paths(model, pairs, **how, max_memory="350 KB")
        torch.testing.assert_close(torch.tensor(parted.values), torch.tensor(whole.values), equal_nan=True)


def test_what_cannot_be_told_is_an_error():
    model, pairs = model_of("llama"), pairs_of()

    def paths(**how):
        return patching.paths(model, pairs, **{"senders": "heads", "receivers": "logits"} | how)

    for how, message in {
        "through": ({"through": "heads"}, "through must be 'edge', 'mlps' or 'all', got 'heads'"),
        "norm": ({"norm": "free"}, "norm must be 'recomputed' or 'frozen', got 'free'"),
        "over": ({"over": "head"}, "over must be 'pos', 'position' or None, got 'head'"),
        "sender": ({"senders": "logits"}, "senders must write into the stream: .*, got logits"),
        "receiver": ({"receivers": "embed"}, "receivers must read the stream as a whole: .*, got embed"),
        "name": ({"senders": "head 3"}, "a part must be called as '9.6'.*, got 'head'"),
        "grouped": ({"receivers": "1.3:k"}, "keys and values belong to key/value heads here, got 1.3:k; say '1.kv"),
        "layer": ({"senders": "7.0"}, r"layer must lie in 0\.\.1, got \[7\]"),
        "head": ({"senders": "1.9"}, r"a head must be one of 0\.\.3, got 9"),
        "metric": ({"metric": lambda logits, pairs: logits[:, -1, 0]}, "a metric of rows such as .*function"),
    }.values():
        with pytest.raises((ArgumentError, UnknownNameError), match=message):
            paths(**how)


def test_selections_are_joined_and_put_in_order():
    config = config_of()
    joined = patching.heads(layer=1) + "embed" + patching.mlps() + "0.2"
    assert [s.label for s in joined.senders(config)] == ["embed", "0.2", "mlp0", "1.0", "1.1", "1.2", "1.3", "mlp1"]
    told = selection("1.2:q + logits + 1.2:v").receivers(config)
    assert {component.label: inputs for component, inputs in told.items()} == {"1.2": ("q", "v"), "logits": ("logits",)}


def test_the_best_edge_passes_over_those_that_cannot_be():
    model = HookedTransformer.from_pretrained("toy-induction")
    pairs = patching.pairs([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
    found = patching.paths(model, pairs, senders="heads", receivers="heads:k + logits")
    best = found.normalised().mean("prompt").top(3)
    assert best.labels[0] == "1.0 → logits"
    assert not torch.tensor(best.values).isnan().any()


def test_a_journal_is_of_one_question(tmp_path):
    model, pairs = model_of("gpt2"), pairs_of()
    by_q = {"senders": "heads", "receivers": "heads:q", "progress": False}
    patching.paths(model, pairs, **by_q, journal=tmp_path / "journal")
    with pytest.raises(OutputError):
        patching.paths(model, pairs, **by_q | {"receivers": "heads:k"}, journal=tmp_path / "journal")
    with pytest.raises(OutputError):
        patching.paths(model, pairs, **by_q | {"senders": "0.1"}, journal=tmp_path / "journal")


def test_key_value_heads_are_called_by_their_name():
    model, pairs = model_of("llama"), pairs_of()
    assert model.config.attention.n_heads == 2 * model.config.attention.kv_heads
    with pytest.raises(ArgumentError, match=r"must receive by k or v, got 1.kv1:q; .*'1.1:q'"):
        patching.paths(model, pairs, senders="heads", receivers="1.kv1:q")
    with pytest.raises(ArgumentError, match=r"got 1.3:k; say '1.kv1'"):
        patching.paths(model, pairs, senders="heads", receivers="1.3:k")
    with pytest.raises(ArgumentError, match="senders must name one part at least"):
        patching.paths(model, pairs, senders=patching.Selection(()), receivers="heads")
