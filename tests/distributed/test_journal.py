"""Journals: what they keep, which ones are continued, and what is said of the others."""

import json
import pickle
import re
import warnings

import pytest
import torch

from pellucid.base.errors import ArgumentError, MisreadWarning, OutputError
from pellucid.distributed.journal import Journal

IDENTITY = {"function": "square", "metric": "logit diff", "seed": 3, "over": ["layer", "head"]}
JOBS = [{"items": [0, 4]}, {"items": [4, 9]}, {"items": [9, 10]}]
RESULT = {"values": torch.tensor([1.5, float("nan"), -0.0])}


def begun(folder, identity=IDENTITY, jobs=JOBS):
    """A journal that may be kept in."""
    journal = Journal.open(folder, identity=identity)
    journal.begin(jobs)
    return journal


def everything(folder):
    """What lies in it, with the bytes of each file."""
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize("place", ["empty", "missing", "missing/twice"])
def test_a_new_journal_knows_no_jobs_and_writes_nothing_until_it_begins(tmp_path, place):
    (tmp_path / "empty").mkdir()
    journal = Journal.open(str(tmp_path / place), identity=IDENTITY)
    assert journal.jobs is None
    assert everything(tmp_path) == {"empty": False}
    journal.begin(JOBS)
    assert journal.jobs == JOBS
    assert [path.name for path in (tmp_path / place).iterdir()] == ["manifest.json"]


def test_a_journal_that_continues_gives_its_own_jobs_and_what_they_gave(tmp_path):
    first = begun(tmp_path)
    first.keep(JOBS[1], RESULT)
    again = Journal.open(tmp_path, identity=IDENTITY)
    assert again.jobs == JOBS
    again.begin(again.jobs)
    assert [again.holds(job) for job in JOBS] == [False, True, False]
    assert again.read(JOBS[0]) is None
    found = again.read(JOBS[1])["values"]
    assert found.view(torch.int32).tolist() == RESULT["values"].view(torch.int32).tolist()


def test_a_finished_job_is_one_file_named_by_what_it_is(tmp_path):
    names = {}
    for folder, identity in (("a", IDENTITY), ("b", IDENTITY), ("other", IDENTITY | {"seed": 4})):
        journal = begun(tmp_path / folder, identity)
        for job in JOBS:
            journal.keep(job, RESULT)
        names[folder] = {path.name for path in (tmp_path / folder).iterdir()} - {"manifest.json"}
    assert names["a"] == names["b"] and len(names["a"]) == 3
    assert not names["a"] & names["other"]
    assert all(re.fullmatch(r"[0-9a-f]{32}\.safetensors", name) for name in names["a"])


@pytest.mark.parametrize(
    "x",
    [
        torch.tensor(True),
        torch.empty(0, dtype=torch.long),
        torch.empty(2, 0, 3),
        torch.tensor(2.5, dtype=torch.bfloat16),
        torch.randn(3, 4, dtype=torch.float64).T,
        torch.randn(5, requires_grad=True),
        torch.randn(1, 3).expand(4, 3),
    ],
    ids=["bool", "empty", "flat", "bfloat16", "transposed", "with gradients", "expanded"],
)
def test_tensors_come_back_as_they_were(tmp_path, x):
    journal = begun(tmp_path)
    journal.keep(JOBS[0], {"x": x, "the same": x})
    found = journal.read(JOBS[0])
    assert set(found) == {"x", "the same"}
    for y in found.values():
        assert y.dtype == x.dtype and y.shape == x.shape and torch.equal(y, x.detach())
        assert not y.requires_grad


def test_a_job_may_give_nothing(tmp_path):
    journal = begun(tmp_path)
    journal.keep(JOBS[0], {})
    assert journal.holds(JOBS[0]) and journal.read(JOBS[0]) == {}


def test_what_was_read_stays_when_the_folder_goes(tmp_path):
    journal = begun(tmp_path)
    journal.keep(JOBS[0], RESULT)
    found = journal.read(JOBS[0])
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    assert found["values"][0] == 1.5


def test_tuples_and_the_order_of_settings_make_no_other_work(tmp_path):
    begun(tmp_path, jobs=[(0, 4), (4, 9)]).keep((0, 4), RESULT)
    identity = dict(reversed(IDENTITY.items())) | {"over": ("layer", "head")}
    again = Journal.open(tmp_path, identity=identity)
    assert again.jobs == [[0, 4], [4, 9]]
    assert again.holds([0, 4]) and again.holds((0, 4))


def test_a_journal_without_jobs_is_one(tmp_path):
    begun(tmp_path, jobs=[])
    again = Journal.open(tmp_path, identity=IDENTITY)
    assert again.jobs == []
    again.begin([])


def test_it_can_be_sent_to_another_process(tmp_path):
    journal = begun(tmp_path)
    journal.keep(JOBS[0], RESULT)
    assert pickle.loads(pickle.dumps(journal)).holds(JOBS[0])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"metric": "rank", "seed": 4}, "its metric is 'logit diff', and here it is 'rank'"),
        ({"seed": True}, "its seed is 3, and here it is True"),
        ({"over": ("layer",)}, "its over is ['layer', 'head'], and here it is ['layer']"),
        ({"freeze": ["pattern"]}, "its freeze is None, and here it is ['pattern']"),
        ({"metric": "x" * 200}, f"and here it is '{'x' * 98}…"),
    ],
)
def test_the_journal_of_other_work_is_refused_by_the_first_setting_that_differs(tmp_path, changed, said):
    begun(tmp_path).keep(JOBS[0], RESULT)
    before = everything(tmp_path)
    with pytest.raises(OutputError) as error:
        Journal.open(tmp_path, identity=IDENTITY | changed)
    assert str(error.value).startswith(f"{tmp_path} must be the journal of the same work, but its ")
    assert said in str(error.value)
    assert str(error.value).endswith("; choose another folder, or delete this one to begin anew")
    assert everything(tmp_path) == before


def test_a_setting_that_is_missing_here_differs_too(tmp_path):
    begun(tmp_path)
    with pytest.raises(OutputError, match="its metric is 'logit diff', and here it is None"):
        Journal.open(tmp_path, identity={name: x for name, x in IDENTITY.items() if name != "metric"})


def test_a_setting_within_others_is_named_by_its_path(tmp_path):
    groups = {"movers": {"layer": 9, "heads": [6, 9]}, "rest": {"layer": 2}}
    begun(tmp_path, IDENTITY | {"groups": groups})
    with pytest.raises(OutputError, match=r"its groups\.movers\.heads is \[6, 9\], and here it is \[6\]"):
        Journal.open(tmp_path, identity=IDENTITY | {"groups": groups | {"movers": {"layer": 9, "heads": [6]}}})


def test_the_journal_of_another_version_is_refused(tmp_path, monkeypatch):
    begun(tmp_path)
    monkeypatch.setattr("pellucid.distributed.journal.VERSION", "99.0")
    with pytest.raises(OutputError, match=r"its version is '\S+', and here it is '99\.0'"):
        Journal.open(tmp_path, identity=IDENTITY)


def test_another_split_is_refused_by_the_first_job_that_differs(tmp_path):
    begun(tmp_path)
    said = r"must be continued with the 3 jobs that it was begun with, got 2, of which job 1 is \{'items': \[4, 10\]\} "
    with pytest.raises(OutputError, match=said + r"and not \{'items': \[4, 9\]\}; delete it to begin anew"):
        begun(tmp_path, jobs=[JOBS[0], {"items": [4, 10]}])
    with pytest.raises(OutputError, match="got 2, which are alike as far as both go; delete it"):
        begun(tmp_path, jobs=JOBS[:2])


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", ".gitignore", "sub"])
def test_a_folder_of_other_files_is_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).mkdir() if name == "sub" else (tmp_path / name).write_text("mine")
    before = everything(tmp_path)
    said = rf"must be empty or a journal, but it holds {re.escape(name)} and no manifest\.json; choose another folder"
    with pytest.raises(OutputError, match=said):
        Journal.open(tmp_path, identity=IDENTITY)
    assert everything(tmp_path) == before


def test_files_that_others_put_beside_a_journal_are_left_alone(tmp_path):
    begun(tmp_path).keep(JOBS[0], RESULT)
    (tmp_path / ".DS_Store").write_text("theirs")
    again = begun(tmp_path)
    assert again.holds(JOBS[0])
    assert (tmp_path / ".DS_Store").read_text() == "theirs"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file must be a folder for a journal, got: .*; choose another place"):
        Journal.open(tmp_path / "file", identity=IDENTITY)


def test_jobs_that_are_alike_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ArgumentError, match=r"jobs must differ, got \[4, 9\] as jobs 1 and 2; number them"):
        begun(tmp_path, jobs=[[0, 4], [4, 9], (4, 9)])
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), torch.ones(2), {1: 1, "a": 2}])
def test_what_is_no_json_is_refused(tmp_path, value):
    with pytest.raises(ArgumentError, match=r"the identity of a journal must be JSON values, got \{'seed': .*: .*"):
        Journal.open(tmp_path, identity={"seed": value})
    with pytest.raises(ArgumentError, match=r"the jobs of a journal must be JSON values, got \[.*: .*"):
        begun(tmp_path, jobs=[value])
    with pytest.raises(ArgumentError, match="a job must be JSON values, got "):
        begun(tmp_path / "new").holds(value)


def test_a_job_that_is_not_the_journals_is_refused(tmp_path):
    journal = Journal.open(tmp_path, identity=IDENTITY)
    said = r"a job must be one of those that the journal was begun with, got \{'items': \[0, 4\]\}"
    for use in (journal.holds, journal.read, lambda job: journal.keep(job, RESULT)):
        with pytest.raises(ArgumentError, match=said):
            use(JOBS[0])
    assert everything(tmp_path) == {}
    journal.begin(JOBS[1:])
    with pytest.raises(ArgumentError, match=said):
        journal.keep(JOBS[0], RESULT)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"threads": 77}, r"with threads 77, and continues with \d+:"), ({"torch": "1.0"}, "with torch '1.0', and ")],
)
def test_work_that_continues_on_other_terms_warns_that_its_last_bits_may_differ(tmp_path, changed, said):
    begun(tmp_path).keep(JOBS[0], RESULT)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["made_with"] |= changed
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(
        MisreadWarning, match=rf"was begun {said}.*results are right, but not bit-equal to those of a run"
    ):
        begun(tmp_path)


def test_nothing_is_said_about_other_terms_where_all_is_done(tmp_path):
    journal = begun(tmp_path)
    for job in JOBS:
        journal.keep(job, RESULT)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert all(map(begun(tmp_path).holds, JOBS))
    finally:
        torch.set_num_threads(threads)
