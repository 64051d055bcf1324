"""Special tokens: who names them, who wins, and what is refused."""

import json
import shutil

import pytest

from pellucid.base.errors import CheckpointError
from pellucid.text.read import read_tokenizer
from pellucid.text.vocabulary import integer_vocabulary
from tests.text.wordpiece import WORDPIECE

WORDS = {"<s>": 0, "</s>": 1, "<pad>": 2, "one": 3, "two": 4, "<x>": 5, "<y>": 6}


def whole(**model):
    """A tokenizer.json of a few words that says nothing of special tokens."""
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": WORDS, "unk_token": "<unk>"} | model,
    }


def test_gpt2_has_bos_in_front_though_its_configuration_adds_none(gpt2):
    policy = gpt2.policy
    assert (policy.bos_id, policy.eos_id, policy.pad_id, policy.unk_id) == (50256,) * 4
    assert policy.prepend_bos
    assert policy.special_ids == {50256}
    assert gpt2.encode("Hello") == [15496]


def test_gpt2_without_any_configuration_is_the_same(gpt2, shared, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(shared / "data" / "gpt2-tokenizer" / name, tmp_path)
    bare = read_tokenizer(tmp_path)
    assert bare.policy == gpt2.policy
    assert bare.encode("a<|endoftext|>b") == gpt2.encode("a<|endoftext|>b") == [64, 50256, 65]


def test_stories260k_pads_with_eos(stories):
    policy = stories.policy
    assert (policy.bos_id, policy.eos_id, policy.pad_id, policy.unk_id) == (1, 2, 2, 0)
    assert policy.special_ids == {0, 1, 2}


def test_a_space_that_stands_for_unknown_text_is_not_special(characters):
    policy = characters.policy
    assert (policy.bos_id, policy.eos_id, policy.pad_id, policy.unk_id) == (None, None, None, 1)
    assert policy.special_ids == frozenset()
    assert not policy.prepend_bos
    assert characters.decode(characters.encode("to be"), skip_special_tokens=True) == "to be"
    assert characters.decode(characters.encode("é")) == " "


def test_cls_is_the_bos_of_wordpiece(wordpiece):
    policy = read_tokenizer(wordpiece).policy
    assert (policy.bos_id, policy.eos_id, policy.pad_id, policy.unk_id) == (2, None, 0, 1)
    assert policy.special_ids == {0, 1, 2, 3, 4}


def test_a_bos_that_is_named_goes_before_cls(folder):
    path = folder(vocab__txt="\n".join([*WORDPIECE, "[BOS]"]), tokenizer_config__json={"bos_token": "[BOS]"})
    assert read_tokenizer(path).bos_token == "[BOS]"


def test_the_configuration_goes_before_the_map_and_that_before_the_ids_given(folder):
    path = folder(tokenizer__json=whole())
    assert read_tokenizer(path).policy.bos_id is None
    assert read_tokenizer(path, bos_id=0, eos_id=1, pad_id=2).bos_token == "<s>"
    folder(special_tokens_map__json={"bos_token": "<x>"})
    assert read_tokenizer(path, bos_id=0).bos_token == "<x>"
    folder(tokenizer_config__json={"bos_token": {"content": "<y>", "lstrip": False}})
    assert read_tokenizer(path, bos_id=0).bos_token == "<y>"
    assert read_tokenizer(path, bos_id=0, eos_id=1).eos_token == "</s>"


def test_null_in_the_configuration_means_that_there_is_none(folder):
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"bos_token": None})
    assert read_tokenizer(path, bos_id=0).policy.bos_id is None


def test_an_id_below_zero_means_none(folder):
    path = folder(tokenizer__json=whole())
    assert read_tokenizer(path, bos_id=0, pad_id=-1).policy.pad_id == 0


def test_a_token_that_is_named_special_is_found_in_text_as_a_whole(folder):
    path = folder(tokenizer__json=whole())
    assert read_tokenizer(path, bos_id=0).encode("one<s>two") == [3, 0, 4]
    folder(tokenizer_config__json={"additional_special_tokens": ["<x>", {"content": "<y>"}]})
    tokenizer = read_tokenizer(path)
    assert tokenizer.encode("one<x>two<y>") == [3, 5, 4, 6]
    assert tokenizer.policy.special_ids == {5, 6}


def test_what_an_added_token_takes_from_the_text_around_it_is_kept(folder):
    mask = {"content": "<x>", "lstrip": True, "rstrip": True}
    characters = {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    }
    vocab = {"a": 0, " ": 1, "<x>": 2}
    path = folder(tokenizer__json=whole(vocab=vocab) | characters, tokenizer_config__json={"mask_token": mask})
    assert read_tokenizer(path).encode("a <x> a") == [0, 2, 0]


def test_extra_special_tokens_by_name_are_special(folder):
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"extra_special_tokens": {"image": "<x>"}})
    assert read_tokenizer(path).policy.special_ids == {5}


def test_a_special_token_that_the_vocabulary_lacks_is_refused(folder):
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"bos_token": "<start>"})
    with pytest.raises(
        CheckpointError,
        match=r"tokenizer\.json must hold every special token, and bos_token '<start>' is not among its 7 tokens; "
        r"correct .*tokenizer_config\.json",
    ):
        read_tokenizer(path)


def test_a_special_token_of_the_map_that_the_vocabulary_lacks_is_refused(folder):
    path = folder(tokenizer__json=whole(), special_tokens_map__json={"additional_special_tokens": ["<z>"]})
    with pytest.raises(CheckpointError, match=r"additional_special_tokens '<z>' .*special_tokens_map\.json"):
        read_tokenizer(path)


def test_an_id_given_that_the_vocabulary_lacks_is_refused(folder):
    with pytest.raises(CheckpointError, match="must hold the model's bos_token_id 50256, and has 7 tokens"):
        read_tokenizer(folder(tokenizer__json=whole()), bos_id=50256)


def test_a_special_token_that_is_no_text_is_refused(folder):
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"eos_token": 3})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: a special token must be a text.*got 3"):
        read_tokenizer(path)


@pytest.mark.parametrize("name", ["tokenizer_config__json", "special_tokens_map__json", "added_tokens__json"])
@pytest.mark.parametrize("content", ['{"bos_token": "<', "[]"])
def test_a_broken_file_beside_the_vocabulary_is_named(folder, name, content):
    path = folder(tokenizer__json=whole(), **{name: content})
    with pytest.raises(CheckpointError, match=name.replace("__", r"\.") + " must"):
        read_tokenizer(path)


def test_tokens_added_later_have_the_ids_that_were_given_to_them(folder):
    added = {"<late>": 8, "<later>": 7}
    path = folder(tokenizer__json=whole(), added_tokens__json=added)
    folder(tokenizer_config__json={"pad_token": "<late>"})
    tokenizer = read_tokenizer(path)
    assert tokenizer.encode("one<late>two<later>") == [3, 8, 4, 7]
    assert tokenizer.policy.special_ids == {8}
    assert (tokenizer.vocab_size, len(tokenizer)) == (7, 9)


def test_tokens_added_in_the_configuration_are_read(folder):
    added = {"7": {"content": "<late>", "special": True}, "3": {"content": "one", "special": False}}
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"added_tokens_decoder": added})
    tokenizer = read_tokenizer(path)
    assert tokenizer.encode("<late>one") == [7, 3]
    assert tokenizer.policy.special_ids == {7}


@pytest.mark.parametrize("added", [{"<late>": 9}, {"one": 5}, {"<late>": "x"}])
def test_added_tokens_of_another_vocabulary_are_refused(folder, added):
    with pytest.raises(CheckpointError, match=r"added_tokens\.json must fit the vocabulary beside it"):
        read_tokenizer(folder(tokenizer__json=whole(), added_tokens__json=added))


def test_added_tokens_that_are_no_object_are_refused(folder):
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"added_tokens_decoder": []})
    with pytest.raises(CheckpointError, match="added_tokens_decoder must be an object"):
        read_tokenizer(path)


def test_add_bos_token_governs_what_encode_adds(folder):
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
    path = folder(tokenizer__json=whole(), tokenizer_config__json=config)
    tokenizer = read_tokenizer(path)
    assert tokenizer.encode("one") == [0, 3, 1]
    assert tokenizer.encode("one", add_special_tokens=False) == [3]
    assert tokenizer.tokens(["one"]).tokens.tolist() == [[0, 3]]
    folder(tokenizer_config__json=config | {"add_eos_token": False})
    assert read_tokenizer(path).encode("one") == [0, 3]


def test_a_bos_of_any_name_can_be_added(folder):
    config = {"bos_token": "$b:1", "add_bos_token": True}
    path = folder(tokenizer__json=whole(vocab=WORDS | {"$b:1": 7}), tokenizer_config__json=config)
    assert read_tokenizer(path).encode("one") == [7, 3]


def test_the_padding_side_of_a_foreign_configuration_is_not_followed(folder):
    path = folder(tokenizer__json=whole(), tokenizer_config__json={"padding_side": "left"})
    assert read_tokenizer(path).padding_side == "right"


def test_padding_and_truncation_of_the_file_are_switched_off(folder):
    content = whole() | {
        "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 9},
            "direction": "Right",
            "pad_id": 2,
            "pad_type_id": 0,
            "pad_token": "<pad>",
            "pad_to_multiple_of": None,
        },
    }
    assert read_tokenizer(folder(tokenizer__json=content)).encode("one two") == [3, 4]


def test_what_the_configuration_says_besides_is_kept(folder, tmp_path):
    config = {"model_max_length": 5, "chat_template": "{{ x }}", "bos_token": "<s>", "mask_token": "<x>"}
    tokenizer = read_tokenizer(folder(tokenizer__json=whole(), tokenizer_config__json=config))
    tokenizer.save(tmp_path / "again")
    assert config.items() <= json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()).items()


def test_a_folder_that_pellucid_wrote_is_not_changed_by_ids_given(tmp_path):
    integer_vocabulary(5, bos=None).save(tmp_path)
    assert read_tokenizer(tmp_path, bos_id=1, eos_id=2, pad_id=3).policy.bos_id is None
