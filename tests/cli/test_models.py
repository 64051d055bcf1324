import json

from pellucid.pretrained.names import ALIASES, available, bundled_models


def test_bundled_models_come_first_with_a_phrase_on_what_they_learned(pellucid):
    done = pellucid("models")
    assert done.status == 0
    rows = [line.split(maxsplit=2) for line in done.out.splitlines() if line]
    about = {model.name: model.about for model in available()}
    bundled = bundled_models()
    assert rows[1 : 1 + len(bundled)] == [[name, "bundled", about[name]] for name in bundled]
    assert ["toy-induction", "bundled", "random tokens which repeat"] in rows


def test_every_alias_is_listed_with_its_name_on_the_hub(pellucid):
    lines = [line.split() for line in pellucid("models").out.splitlines()]
    assert {(words[0], words[-1]) for words in lines if words} >= set(ALIASES.items())


def test_no_line_is_wider_than_80_columns_or_ends_in_spaces(pellucid):
    lines = pellucid("models").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(" ") for line in lines)


def test_json_says_the_same(pellucid):
    rows = json.loads(pellucid("models", "--json").out)
    toy = {"name": "toy-induction", "bundled": True, "repository": None, "here": True}
    assert toy | {"about": "random tokens which repeat"} in rows
    assert [row["name"] for row in rows] == [*bundled_models(), *ALIASES]
    assert [bool(row["about"]) for row in rows] == [row["bundled"] for row in rows]


def test_a_model_in_the_hubs_cache_is_told_from_one_to_be_fetched(pellucid, monkeypatch):
    monkeypatch.setattr("pellucid.pretrained.names.is_cached", lambda repository: repository == "distilgpt2")
    lines = pellucid("models").out.splitlines()
    (cached,) = (line for line in lines if line.startswith("distilgpt2 "))
    (fetched,) = (line for line in lines if line.startswith("gpt2-xl "))
    assert "in the hub's cache" in cached
    assert "on the hub" in fetched


def test_an_argument_that_is_not_taken_is_wrong_usage(pellucid):
    assert pellucid("models", "gpt2").status == 2
