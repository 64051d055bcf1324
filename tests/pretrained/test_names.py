from pathlib import Path

import pytest

import pellucid.pretrained.names as names
from pellucid.base.errors import CheckpointError
from pellucid.pretrained.export import save_pretrained
from pellucid.pretrained.families import FAMILIES
from pellucid.pretrained.names import ALIASES, available, bundled_models, find
from tests.pretrained.checkpoints import scrambled
from tests.pretrained.test_native import BASE


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to stand in; what is asked of the hub is a list."""
    asked = []

    def download(repository, *, revision=None, known=()):
        asked.append((repository, revision))
        return tmp_path / "hub", "c0ffee"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names, "download", download)
    return asked


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "_bundled", lambda: tmp_path / "package")
    return model_in(tmp_path / "package" / "toy")


def model_in(folder):
    save_pretrained(scrambled(BASE), folder)
    return folder


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_folder_that_exists_comes_first(tmp_path, elsewhere, as_type):
    model_in(tmp_path / "org" / "model")
    place = find(as_type("org/model"))
    assert (place.folder, place.revision, place.from_hub) == (Path("org/model"), None, False)
    assert elsewhere == []


@pytest.mark.parametrize("path", ["./gpt2", "gpt2/../gpt2", "{here}/gpt2"])
def test_an_explicit_path_is_only_ever_a_folder(tmp_path, elsewhere, path):
    model_in(tmp_path / "gpt2")
    assert find(path.format(here=tmp_path)).folder.resolve() == tmp_path / "gpt2"
    assert find(Path("gpt2")).folder == Path("gpt2")
    assert elsewhere == []


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model_in(tmp_path / "mine")
    assert find("~/mine").folder == tmp_path / "mine"


def test_a_bundled_model_comes_next(bundled, elsewhere):
    assert find("toy").folder == bundled
    assert bundled_models() == ["toy"]
    assert elsewhere == []


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "distillgpt2", "Llama-2-7b", "somebody/something", "gpt9"])
def test_an_alias_and_then_any_other_name_is_asked_of_the_hub(elsewhere, name):
    place = find(name, revision="v2")
    assert elsewhere == [(ALIASES.get(name, name), "v2")]
    assert (place.name, place.revision, place.from_hub) == (name, "c0ffee", True)


def test_a_name_that_fits_two_is_an_error(tmp_path, bundled, elsewhere):
    model_in(tmp_path / "toy")
    model_in(tmp_path / "gpt2")
    with pytest.raises(
        CheckpointError, match="'toy' must mean one model, it is a folder here and a bundled model too; say"
    ):
        find("toy")
    with pytest.raises(
        CheckpointError, match="'gpt2' .* a folder here and a name of a model on the hub too; say './gpt2'"
    ):
        find("gpt2")
    assert find("./toy").folder == Path("toy")
    assert elsewhere == []


def test_a_folder_that_holds_no_model_hides_no_other_name(tmp_path, bundled, elsewhere):
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "toy").mkdir()
    assert find("toy").folder == bundled
    find("gpt2")
    assert elsewhere == [("gpt2", None)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./nowhere", r"\./nowhere must be a folder that holds a model, it does not exist"),
        ("./gpt2-smal", "it does not exist; nearest: gpt2-small"),
        (Path("toy-inductoin"), "it does not exist; nearest: toy-induction"),
        ("empty", "empty must hold a model: a config.json and its weights; found nothing"),
        ("half", "half must hold a model: .*; found README.md, model.safetensors"),
        ("file.pt", "must be given as its folder, file.pt is a file; give the folder that holds it"),
        ("half/model.safetensors", "must be given as its folder"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.safetensors").touch()
    (tmp_path / "half" / "README.md").touch()
    (tmp_path / "file.pt").touch()
    with pytest.raises(CheckpointError, match=said):
        find(name)


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_refused(elsewhere, name):
    with pytest.raises(CheckpointError, match="a model's name must not be empty; give a folder, or a name that"):
        find(name)
    assert elsewhere == []


def test_any_folder_will_do_where_no_model_is_wanted(tmp_path):
    (tmp_path / "words").mkdir()
    assert find("words", any_folder=True).folder == Path("words")
    with pytest.raises(CheckpointError, match="nowhere must be a folder"):
        find("./nowhere", any_folder=True)


def test_a_revision_of_a_folder_is_refused(tmp_path):
    model_in(tmp_path / "m")
    with pytest.raises(
        CheckpointError, match="a revision must be of a model on the hub, m is a folder; leave revision out"
    ):
        find("m", revision="main")


def test_a_package_without_bundled_models_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "_bundled", lambda: tmp_path / "nowhere")
    assert bundled_models() == []


def test_all_that_has_a_name_is_listed(bundled, monkeypatch):
    monkeypatch.setattr(names, "is_cached", lambda repository: repository == "gpt2")
    listed = {model.name: model for model in available()}
    assert next(iter(listed)) == "toy" and (listed["toy"].repository, listed["toy"].here) == (None, True)
    assert listed["gpt2-small"].repository == "gpt2" and listed["gpt2-small"].here
    assert not listed["gpt2-xl"].here
    assert len(listed) == 1 + len(ALIASES)


@pytest.mark.parametrize(("card", "about"), [('{"about": "words"}', "words"), ("{}", None), (None, None)])
def test_what_a_bundled_model_learned_is_on_its_card_if_it_has_one(bundled, card, about):
    if card is not None:
        (bundled / "card.json").write_text(card)
    assert {model.name: model.about for model in available() if model.about or model.name == "toy"} == {"toy": about}


def test_bundled_models_load():
    from pellucid.pretrained.load import load

    for name in bundled_models():
        assert load(name).record.model == name


def test_aliases_lead_to_families_that_are_read():
    assert all(any(family in hub.lower() for family in FAMILIES) for hub in ALIASES.values())
