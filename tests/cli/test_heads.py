import json
from pathlib import Path

import pytest

from pellucid import AttentionConfig, Config, HookedTransformer
from pellucid.analysis.heads import role_scores
from pellucid.analysis.repeated import repeated_tokens
from pellucid.analysis.zoo_roles import ZOO
from pellucid.analysis.zoo_scores import zoo

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


def test_a_role_has_its_best_heads_first_with_interval_control_p_and_a_plain_yes(pellucid):
    done = pellucid("heads", "--model", "toy-induction", "--batch", "8", "--role", "induction", "--role", "copying")
    assert done.status == 0, done.err
    model = HookedTransformer.from_pretrained("toy-induction")
    ours = zoo(model, ["induction", "copying"], batch=8)
    first, second = done.out.split("\ncopying:")
    assert "8 prompts of BOS, 50 random tokens and the same 50 again; seed 0" in first
    lines = rows(first)
    assert list(lines) == [row.head for row in ours["induction"].rows()]
    best = ours["induction"].rows()[0]
    assert lines[best.head] == [
        f"{best.score:.3f}",
        f"[{best.low:.3f},",
        f"{best.high:.3f}]",
        f"{best.control:.3f}",
        f"{best.p:.2g}",
        "yes",
    ]
    assert lines["0.1"][-1] == "no"
    assert "best on one half of the prompts" in first
    assert "control: the same stripe on tokens that do not repeat; clear: 0.1 above it or more, and p ≤ 0.05" in first
    assert rows(second)["0.1"][-1] in ("yes", "no") and len(rows(second)["0.1"]) == 4
    assert "from weights, where nothing is sampled, so no interval; p: rank among 99 draws" in second
    assert "interval" not in second.split("control:")[0]
    assert "whether it needs a previous-token head, `pellucid study induction` tells" in first


def test_composition_shows_the_head_that_it_is_with(pellucid):
    table = rows(pellucid("heads", "--model", "toy-induction", "--role", "k_composition").out)
    assert table["1.0"][-2:] == ["yes", "0.1"]
    assert table["0.0"] == ["-", "-", "-", "cannot", "-"]


def test_a_role_that_no_head_can_play_says_so(pellucid, without_bos):
    done = pellucid("heads", "--model", without_bos, "--role", "k_composition")
    assert "none: no head lies in an earlier layer" in done.out and "nan" not in done.out


@pytest.mark.filterwarnings("ignore:no single cell")
def test_two_prompts_leave_a_role_untested_and_print_no_nan(pellucid):
    done = pellucid(*HEADS, "--batch", "2", "--role", "induction", "--out", "heads.html")
    assert done.status == 0 and "nan" not in done.out and "(once: no interval)" in done.out
    assert rows(done.out)["1.0"][-1] == "untested"
    page = Path("heads.html").read_text(encoding="utf-8")
    assert "once: no interval" in page and "[nan" not in page and ">untested<" in page


def test_one_prompt_leaves_a_role_untested(pellucid):
    done = pellucid(*HEADS, "--batch", "1", "--role", "induction")
    assert done.status == 0 and rows(done.out)["1.0"][-1] == "untested"
    assert "one prompt: no interval and no test" in done.out


def test_roles_as_json_have_every_number(pellucid):
    done = pellucid(
        *("heads", "--model", "toy-induction", "--batch", "8", "--json"),
        *("--role", "induction", "--role", "k_composition", "--role", "successor"),
    )
    told = json.loads(done.out)
    assert list(told["roles"]) == ["induction", "k_composition", "successor"]
    induction, composed = told["roles"]["induction"], told["roles"]["k_composition"]
    assert induction["unit"] == "attention mass" and induction["record"]["settings"]["seq_len"] == 50
    assert len(induction["heads"]) == 8
    best = induction["heads"][0]
    assert set(best) == {"head", "score", "low", "high", "control", "p", "plays", "partner", "share", "barred"}
    assert best["low"] <= best["score"] <= best["high"] and best["plays"] is True and best["partner"] is None
    assert composed["heads"][0]["partner"] == "0.1" and composed["heads"][0]["p"] == 1 / 1000
    assert composed["heads"][-1]["score"] is None
    assert composed["heads"][-1]["barred"] == "no head lies in an earlier layer"
    assert "rank among 999 draws" in composed["test"] and composed["alpha"] == 0.05
    assert "study induction" in induction["note"] and composed["note"] is None


def test_a_role_of_a_task_says_where_the_tokenizer_lacks_the_names(pellucid):
    done = pellucid("heads", "--model", "toy-induction", "--role", "name_mover", "--role", "backup")
    assert done.status == 0
    lacking = "none: this model's tokenizer lacks the names: 6 names of ioi or more must be single tokens here"
    assert done.out.count(lacking) == 2


def test_an_unknown_role_is_refused_with_the_nearest_before_anything_is_loaded(pellucid):
    done = pellucid("heads", "--model", "toy-induction", "--role", "inducton")
    assert (done.status, done.out) == (1, "")
    assert done.err == "Error: role must be a known one, got 'inducton'; nearest: induction\n"


def test_bold_is_explained(pellucid):
    assert "bold: 0.1 above the control or more; --role NAME tests it." in pellucid(*HEADS).out


def test_what_cannot_be_is_refused_before_anything_is_loaded(pellucid, tmp_path):
    (tmp_path / "there.html").write_text("mine")
    for words, message in {
        ("--out", "."): "--out must name a page, such as page.html",
        ("--out", "-"): "--out must name a page, such as page.html",
        ("--out", "page.pdf"): "--out must name a page, such as page.html",
        ("--out", "there.html"): "there.html is there already; choose another file, or add --overwrite",
        ("--role", "self", "--texts", "x.txt"): "--texts is for positional roles",
    }.items():
        done = pellucid("heads", "--model", "no such model", *words)
        assert (done.status, done.out) == (1, "") and done.err.startswith(f"Error: {message}"), done.err
    done = pellucid(*HEADS, "--seed", "9" * 23)
    assert done.status == 2 and "less than or equal to 9223372036854775807" in done.err
    assert (tmp_path / "there.html").read_text() == "mine"
    done = pellucid(*HEADS, "--role", "self", "--batch", "8", "--out", "there.html", "--overwrite")
    assert done.status == 0 and "itself" in (tmp_path / "there.html").read_text()


def test_positional_roles_can_be_told_from_shuffled_text(pellucid, tmp_path):
    (tmp_path / "a.txt").write_text(" ".join(str(i % 50 + 1) for i in range(2000)))
    done = pellucid(
        *("heads", "--model", "toy-induction", "--batch", "9", "--seq-len", "20"),
        *("--role", "positional_1", "--texts", "a.txt", "--json"),
    )
    assert done.status == 0, done.err
    role = json.loads(done.out)["roles"]["positional_1"]
    assert role["about"] == "attends 1 back, on shuffled text"
    assert role["record"]["settings"] == {"texts": "shuffled", "batch": 9, "length": 41, "bos": True}
    assert role["heads"][0]["head"] == "0.1" and role["heads"][0]["plays"] is True


def test_out_writes_a_page_of_every_head_in_every_role_beside_the_usual_table(pellucid, tmp_path):
    done = pellucid("heads", "--model", "toy-induction", "--batch", "8", "--out", "heads.html")
    assert done.status == 0 and "page written to heads.html" in done.err
    assert done.out == pellucid("heads", "--model", "toy-induction", "--batch", "8").out
    page = (tmp_path / "heads.html").read_text(encoding="utf-8")
    for told in ("Every head in every role", "k composition", "Is there a head for each role?", "yes: 0.1"):
        assert told in page
    assert "lacks the names" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_out_with_a_role_writes_a_page_of_it_alone(pellucid, tmp_path):
    done = pellucid(
        *("heads", "--model", "toy-induction", "--batch", "8", "--json", "--role", "all", "--role", "self"),
        *("--out", "a/heads.html"),
    )
    assert done.status == 0
    assert len(json.loads(done.out)["roles"]) == len(ZOO)
    assert (tmp_path / "a" / "heads.html").is_file()
    pellucid("heads", "--model", "toy-induction", "--batch", "8", "--role", "self", "--out", "self.html")
    page = (tmp_path / "self.html").read_text(encoding="utf-8")
    assert "copy suppression" not in page and "attends to the token itself" in page


def test_a_page_of_a_model_without_scores_says_so(pellucid, without_bos, tmp_path):
    done = pellucid("heads", "--model", without_bos, "--role", "bos", "--role", "successor", "--out", "heads.html")
    assert done.status == 0
    page = (tmp_path / "heads.html").read_text(encoding="utf-8")
    assert "There is nothing to show" in page and "is missing" in page
    assert "none: This model has no tokenizer" in done.out
