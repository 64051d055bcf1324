"""The roles that a task tells, on a wired circuit exactly its heads; and the page of every head in every role."""

import pytest

from pellucid import HookedTransformer
from pellucid.analysis.zoo_scores import Zoo, zoo
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.model.wired import indirect_object
from pellucid.studies.heads_page import TASK_ROLES, heads_page, task_roles
from tests.studies.test_ioi import prompts_of


@pytest.fixture(scope="module")
def wired() -> HookedTransformer:
    made = indirect_object(4, 3, duplicate=(0, 2), inhibition=(1, 1), mover=(3, 0))
    model = HookedTransformer(made.config, device="cpu")
    model.load_state_dict(made.weights)
    return model.double()


@pytest.fixture(scope="module")
def found(wired):
    return task_roles(wired, prompts=prompts_of(12))


def test_the_wired_heads_and_no_others_play_the_roles_of_the_task(found):
    assert list(found) == list(TASK_ROLES)
    assert found["name_mover"].players() == ["3.0"]
    assert found["s_inhibition"].players() == ["1.1"]
    assert found["backup"].players() == [] and found["negative"].players() == []
    assert "95% of the names" in found["negative"].reason
    best = found["name_mover"].best()
    assert best is not None and best.labels == ["3.0"]


def test_the_page_tells_them_with_the_others(wired, found):
    both = Zoo({**zoo(wired, ["induction", "copying", "k_composition", "successor"], batch=12).found, **found})
    page = heads_page("models/wired", both).html()
    assert "Heads: wired" in page and "name mover: 3.0" in page and "S-inhibition" not in page
    assert "s inhibition: 1.1" in page and "95% of the names" in page


def test_a_tokenizer_without_the_names_is_a_reason():
    model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
    lacking = task_roles(model)
    assert all("tokenizer lacks the names" in one.reason and one.score is None for one in lacking.values())
    page = heads_page("toy-induction", Zoo(lacking)).html()
    assert "No head is clearly above its control" in page and "no role has scores" in page


def test_roles_that_this_task_does_not_tell_are_refused(wired):
    with pytest.raises(ArgumentError, match="must be one of name_mover, .*got 'induction'"):
        task_roles(wired, ["induction"])
    with pytest.raises(UnknownNameError, match="nearest: name_mover"):
        task_roles(wired, ["name_movr"])
    assert task_roles(wired, []) == {}
