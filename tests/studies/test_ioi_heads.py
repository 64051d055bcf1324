"""The roles of naming the indirect object, on a circuit wired to have all of them, and against hooked runs."""

import math

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer
from pellucid.analysis.task_heads import attention_between, lowered_attention
from pellucid.analysis.zoo_roles import COPIES, ZOO
from pellucid.analysis.zoo_scores import Zoo
from pellucid.model.wired.directions import SHARPNESS
from pellucid.model.wired.indirect_object import ANSWER, INHIBITED, POSITION, TOKEN, _Features, indirect_object
from pellucid.studies import ioi_heads
from pellucid.studies.heads_page import TASK_ROLES, heads_page, task_roles
from pellucid.studies.ioi_heads import _gained, _gained_by_others, _others, roles
from pellucid.studies.ioi_prompts import Prompts
from pellucid.tasks.ioi import IOI, NAMES
from tests.studies.test_ioi import prompts_of

MOVER, NEGATIVE, BACKUP, INHIBITION = (2, 0), (2, 1), (3, 2), (1, 1)


def whole_circuit() -> HookedTransformer:
    """The wired circuit with a negative head beside the name mover, and a backup head above that waits for both.

    The backup head looks where the name mover does, but not at the name that END already bears; so it finds nothing
    until the name mover writes something else.
    """
    made = indirect_object(4, 3, duplicate=(0, 2), inhibition=INHIBITION, mover=MOVER)
    model = HookedTransformer(made.config, device="cpu")
    model.load_state_dict(made.weights)
    model.requires_grad_(False)
    features, mover = _Features(8, 6, 20), model.blocks[MOVER[0]].attn
    for (layer, head), written in ((NEGATIVE, -0.3), (BACKUP, 0.4)):
        attn = model.blocks[layer].attn
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q"):
            getattr(attn, name)[head] = getattr(mover, name)[MOVER[1]]
        attn.W_O[head] *= written
    root, spread = math.sqrt(SHARPNESS / mover.config.factor), ANSWER / math.sqrt(3)
    backup, place = model.blocks[BACKUP[0]].attn, [TOKEN, POSITION, INHIBITED, spread]
    backup.W_Q[BACKUP[1], :, 8] = features.end * (root / features.read(TOKEN, *place[1:]))
    heard = features.inhibited.T * (3 * root / features.read(INHIBITED, TOKEN, POSITION, spread))
    backup.W_Q[BACKUP[1], :, :8] = -heard - features.names.T * (root / features.read(ANSWER, *place[:3]) * 2)
    return model.double()


@pytest.fixture(scope="module")
def circuit() -> HookedTransformer:
    return whole_circuit()


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return prompts_of(12)


@pytest.fixture(scope="module")
def found(circuit, prompts):
    return task_roles(circuit, prompts=prompts)


def test_each_wired_head_plays_its_role_and_no_other_does(found):
    heads = {"name_mover": MOVER, "negative": NEGATIVE, "s_inhibition": INHIBITION, "backup": BACKUP}
    assert {name: one.players() for name, one in found.items()} == {
        name: [f"{layer}.{head}"] for name, (layer, head) in heads.items()
    }
    for name, one in found.items():
        for row in one.rows():
            assert row.plays or row.barred or abs(row.score - row.control) < ZOO[name].least, (name, row)
        assert one.rows()[0].control < 0.2 * one.rows()[0].score, name


def test_only_movers_are_barred_from_backup_and_who_cannot_says_why(found):
    assert found["backup"].bars() == {"is a name mover, and is out": ["2.0"]}
    assert found["s_inhibition"].bars() == {
        "lies below no name mover": [f"{layer}.{head}" for layer in (2, 3) for head in range(3)]
    }
    (why,) = found["name_mover"].bars()
    assert why == "has 95% of the names or less among the five tokens it writes for most"
    by_head = {row.head: row for row in found["name_mover"].rows()}
    assert by_head["2.0"].share == 1 and by_head["2.0"].barred is None
    assert by_head["2.1"].share == 0 and by_head["2.1"].verdict == "cannot"
    assert found["backup"].rows()[0].share is None and COPIES == 0.95


def test_the_page_has_shares_and_reasons_and_a_line_for_each_record(circuit, found):
    page = heads_page("wired", Zoo(found)).html()
    assert "tokens copied" in page and "lies below no name mover" in page
    made = page.split("How was this made?")[-1]
    for told in (
        "name mover, negative: Pellucid",
        "s inhibition: Pellucid",
        "backup: Pellucid",
        "prompts 12, of given",
    ):
        assert told in made


def test_what_heads_gain_is_the_difference_of_two_hooked_runs(circuit, prompts):
    """Heads write what they do where nothing repeats; the final norm's scale is that of the run without."""
    out = [MOVER, NEGATIVE]
    found = _gained(circuit, prompts, out).values
    pairs, other = prompts.turned, prompts.unrepeated.corrupted
    for i, length in enumerate(pairs.lengths.tolist()):
        clean, instead = pairs.clean[i : i + 1, :length], other[i : i + 1, :length]
        _, before = circuit.run_with_cache(clean)
        _, donor = circuit.run_with_cache(instead)

        def swap(z, hook, donor=donor):
            for layer, head in out:
                if layer == hook.layer():
                    z = z.clone()
                    z[:, :, head] = donor[hook.name][:, :, head]
            return z

        after = {}

        def keep_z(z, hook, after=after):
            after[hook.layer()] = z

        keep = [(f"blocks.{layer}.attn.hook_z", keep_z) for layer in range(4)]
        swaps = [(f"blocks.{layer}.attn.hook_z", swap) for layer in range(4)]
        circuit.run_with_hooks(clean, return_type=None, fwd_hooks=[*swaps, *keep])
        end = length - 1
        direction = circuit.W_U[:, pairs.answer[i, 0]] - circuit.W_U[:, pairs.wrong[i, 0]]
        scale = before["ln_final.hook_scale"][0, end]
        for layer in range(4):
            change = after[layer][0, end] - before["z", layer][0, end]
            written = torch.einsum("hd,hdm->hm", change, circuit.W_O[layer])
            written = (written - written.mean(-1, keepdim=True)) / scale * circuit.ln_final.w
            np.testing.assert_allclose(found[i, layer], written @ direction, atol=1e-9)


def test_the_control_of_backup_takes_out_as_many_other_heads_of_the_same_layers(circuit, prompts):
    out = np.zeros((4, 3), bool)
    out[2, 0] = True
    assert _others([MOVER], out) == [(2, 1)]
    out[2] = True
    assert _others([(2, 0), (2, 1), (2, 2)], out) == []
    _, played = roles(circuit, prompts)
    assert played["backup"].score.record.settings["out"] == ["2.0"]
    assert played["backup"].control.record.settings["out"] == ["2.1"]
    alone = _gained(circuit, prompts, [(2, 1)]).values
    assert np.abs(alone[:, 2, 1]).min() > 1  # the head that is out writes something else: that is no gain
    alone[:, 2, 1] = 0
    np.testing.assert_allclose(played["backup"].control.values, alone)
    both = [(2, 1), (3, 2)]
    expected = _gained(circuit, prompts, both).values
    for layer, head in both:
        (rest,) = [other for other in both if other != (layer, head)]
        expected[:, layer, head] = _gained(circuit, prompts, [rest]).values[:, layer, head]
    np.testing.assert_allclose(_gained_by_others(circuit, prompts, both).values, expected)


def test_s_inhibition_is_attention_times_what_all_movers_lose_and_its_control_has_no_repeat(
    circuit, prompts, monkeypatch
):
    monkeypatch.setattr(ioi_heads.Role, "found", lambda role: ["2.0", "3.2"])  # as if there were two name movers
    _, played = roles(circuit, prompts)
    role, movers = played["s_inhibition"], [MOVER, BACKUP]
    control = prompts.control
    for pairs, other, made in (
        (prompts.turned, prompts.unrepeated.corrupted, role.score),
        (control, control.corrupted, role.control),
    ):
        looked = attention_between(circuit, pairs, "end", "S2").values
        each = [lowered_attention(circuit, pairs, other, [mover], ["S1", "S2"]).values for mover in movers]
        np.testing.assert_allclose(made.values, looked * (each[0] + each[1]) / 2, atol=1e-12)
    assert role.score.record.settings["readers"] == ["2.0", "3.2"]
    assert role.score.unit == "fraction" and (role.barred[:3] == "").all() and (role.barred[3] != "").all()


def test_the_control_moves_names_round_so_that_none_is_repeated(prompts):
    pairs = prompts.control
    for i in range(len(prompts)):
        io, s1, s2 = (int(pairs.positions[name][i]) for name in ("IO", "S1", "S2"))
        before, after = pairs.clean[i].tolist(), pairs.corrupted[i].tolist()
        assert [after[io], after[s1], after[s2]] == [before[s1], before[s2], before[io]]
        assert len({after[io], after[s1], after[s2]}) == 3
        assert [x for p, x in enumerate(after) if p not in (io, s1, s2)] == [
            x for p, x in enumerate(before) if p not in (io, s1, s2)
        ]


def test_records_tell_seed_and_prompts():
    model = HookedTransformer.from_pretrained("toy-ioi", device="cpu")
    prompts = Prompts.of(model, n=12, seed=5)
    single = [name for name in NAMES if name in set(model.tokenizer.strings(range(len(model.tokenizer))))]
    assert sorted(model.tokenizer.strings(prompts.names)) == sorted(single) and len(single) == 64
    for name, one in task_roles(model, prompts=prompts).items():
        if one.score is not None:
            told = one.score.record
            assert told.seed == 5, name
            assert told.settings["prompts"] == 12 and told.settings["of"] == IOI.name
            assert told.settings["names"] == len(single) and told.settings["templates"] == 6
    assert len(prompts_of().names) == 8 and prompts_of().settings["of"] == "given"


def test_the_roles_of_the_task_are_all_there(found):
    assert tuple(found) == TASK_ROLES
