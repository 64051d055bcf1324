import json

from pellucid.pretrained.names import ALIASES


def test_the_bundled_model_comes_first_and_is_marked(pellucid):
    done = pellucid("models")
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines() if line]
    assert rows[1] == ["toy-induction", "bundled"]


def test_every_alias_is_listed_with_its_name_on_the_hub(pellucid):
    lines = [line.split() for line in pellucid("models").out.splitlines()]
    assert {(words[0], words[-1]) for words in lines if words} >= set(ALIASES.items())


def test_no_line_is_wider_than_80_columns_or_ends_in_spaces(pellucid):
    lines = pellucid("models").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(" ") for line in lines)


def test_json_says_the_same(pellucid):
    rows = json.loads(pellucid("models", "--json").out)
    assert rows[0] == {"name": "toy-induction", "bundled": True, "repository": None, "here": True}
    assert {row["name"] for row in rows} == {"toy-induction", *ALIASES}


def test_a_model_in_the_hubs_cache_is_told_from_one_to_be_fetched(pellucid, monkeypatch):
    monkeypatch.setattr("pellucid.pretrained.names.is_cached", lambda repository: repository == "distilgpt2")
    lines = pellucid("models").out.splitlines()
    (cached,) = (line for line in lines if line.startswith("distilgpt2 "))
    (fetched,) = (line for line in lines if line.startswith("gpt2-xl "))
    assert "in the hub's cache" in cached
    assert "on the hub" in fetched


def test_an_argument_that_is_not_taken_is_wrong_usage(pellucid):
    assert pellucid("models", "gpt2").status == 2
