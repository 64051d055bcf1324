import json

import pytest

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.analysis.heads import role_scores
from pellucid.analysis.repeated import repeated_tokens

HEADS = ("heads", "--model", "toy-induction", "--batch", "4")
ROLES = {"previous token", "duplicate token", "induction", "BOS", "self"}


def rows(out: str) -> dict[str, list[str]]:
    """The table's lines, by head."""
    lines = (line.split() for line in out.splitlines())
    return {words[0]: words[1:] for words in lines if words and words[0].replace(".", "").isdigit()}


def test_every_head_has_a_row_with_each_role_its_interval_and_its_control(pellucid):
    done = pellucid(*HEADS)
    assert done.status == 0
    table = rows(done.out)
    assert list(table) == [f"{layer}.{head}" for layer in range(2) for head in range(4)]
    model = HookedTransformer.from_pretrained("toy-induction")
    score, control = (part.mean("prompt") for part in role_scores(model, repeated_tokens(model, batch=4)))
    for name, cells in table.items():
        layer, head = map(int, name.split("."))
        expected = []
        for role in ("previous token", "duplicate token", "induction", "BOS", "self"):
            place = {"role": role, "layer": layer, "head": head}
            mean = score.sel(**place).dataset
            expected += [f"{float(mean['value']):.2f}", f"±{float(mean['high'] - mean['value']):.2f}"]
            if role in ("duplicate token", "induction"):
                expected.append(f"{control.sel(**place).item():.2f}")
        assert cells == expected


def test_the_first_row_is_uniform_attention(pellucid):
    (line,) = (line for line in pellucid(*HEADS).out.splitlines() if line.startswith("uniform"))
    queries = range(2, 101)
    assert line.split()[1] == f"{sum(1 / (q + 1) for q in queries) / len(queries):.2f}"


@pytest.mark.parametrize("batch", ["4", "1"])
def test_no_line_is_wider_than_80_columns_and_none_is_cut(pellucid, batch):
    lines = pellucid(*HEADS, "--batch", batch).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(" ") for line in lines)
    assert not any("…" in line for line in lines)


def test_json_has_every_number(pellucid):
    done = pellucid(*HEADS, "--json", "--seed", "2")
    found = json.loads(done.out)
    assert found["record"]["seed"] == 2
    assert len(found["heads"]) == 8
    for head in found["heads"]:
        assert set(head) == {"head"} | ROLES
        for role in ROLES:
            assert head[role]["low"] <= head[role]["score"] <= head[role]["high"]
            assert 0 <= head[role]["control"] <= 1


def test_one_prompt_has_no_intervals(pellucid):
    done = pellucid(*HEADS, "--batch", "1")
    assert "±" not in done.out.split("Attention mass")[0]
    assert "Attention mass on one prompt, which has no interval." in done.out
    cell = json.loads(pellucid(*HEADS, "--batch", "1", "--json").out)["heads"][0]["self"]
    assert (cell["low"], cell["high"]) == (None, None)


@pytest.fixture
def without_bos(tmp_path):
    attention = AttentionConfig(n_heads=2, d_head=4)
    config = Config(n_layers=1, d_model=8, d_vocab=30, n_ctx=16, attention=attention)
    HookedTransformer(config, seed=0, device="cpu").save_pretrained(tmp_path / "model")
    return "model"


def test_a_model_without_bos_has_no_score_of_it(pellucid, without_bos):
    done = pellucid("heads", "--model", without_bos)
    assert done.status == 0
    assert "none was added" in done.out
    assert rows(done.out)["0.0"][8] == "-"
    found = json.loads(pellucid("heads", "--model", without_bos, "--json").out)
    assert found["heads"][0]["BOS"] is None
    assert found["bos"] == "This model has no tokenizer, so no BOS is known: none was added."


def test_a_length_that_does_not_fit_is_refused_in_one_line(pellucid):
    done = pellucid(*HEADS, "--seq-len", "70")
    assert (done.status, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("Error: seq_len must lie in 2..63")
