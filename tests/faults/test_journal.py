"""Journals under fire: killed at random moments, damaged on disk, on a full or a locked one."""

import json
import os
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from pellucid.base.errors import CheckpointError, OutputError
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local

KILLS = 10

KILLED = """
import os, random, signal, sys, time
import torch
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local

folder, seed, kills = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def product(job):
    time.sleep(0.004)
    generator = torch.Generator().manual_seed(job["seed"])
    x = torch.randn(160, 160, generator=generator)
    return {"y": (x @ x).softmax(-1), "rows": torch.tensor(job["rows"])}

def work():
    journal = Journal.open(folder, identity={"function": "product"})
    jobs = journal.jobs or [{"seed": i, "rows": list(range(seed, seed + i))} for i in range(100)]
    journal.begin(jobs)
    Local().map(product, jobs, journal=journal)

moments = random.Random(seed)
for _ in range(kills):
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    time.sleep(moments.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    print("killed" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL else "ended", flush=True)
    held = sorted(name for name in os.listdir(folder) if name[0] != ".") if os.path.exists(folder) else []
    print(*held, flush=True)
if not kills:
    work()
"""


def run(folder, *, seed, kills):
    """What the killed process prints: how each child ended, and what it left."""
    command = [sys.executable, "-c", KILLED, str(folder), str(seed), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return lines[::2], [line.split() for line in lines[1::2]]


def kept(folder):
    """The tensors of each file."""
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What a run in one go keeps."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, seed=1, kills=0)
    return kept(folder)


def test_work_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path, uninterrupted):
    folder = tmp_path / "journal"
    ends, left = run(folder, seed=1, kills=KILLS)
    assert ends == ["killed"] * KILLS
    for before, after in zip([[], *left], left, strict=False):
        assert set(before) <= set(after), "a finished job stays"
    assert 0 < len(left[-1]) < 1 + len(uninterrupted), "some were finished, and some were not"
    for name, tensors in kept(folder).items():
        assert all(torch.equal(x, uninterrupted[name][key]) for key, x in tensors.items())
    run(folder, seed=2, kills=0)  # who continues would have split otherwise, and takes the journal's jobs
    found = kept(folder)
    assert found.keys() == uninterrupted.keys() and len(found) == 100
    for name, tensors in found.items():
        assert tensors.keys() == uninterrupted[name].keys()
        assert all(torch.equal(x, uninterrupted[name][key]) for key, x in tensors.items())


def begun(folder):
    """A journal of three jobs that may be kept in."""
    journal = Journal.open(folder, identity={"function": "count"})
    journal.begin([1, 2, 3])
    return journal


def count(job):
    """What a job gives."""
    return {"x": torch.arange(float(job))}


def filled(folder):
    """The files of a journal in which two jobs are finished."""
    journal = begun(folder)
    for job in (2, 3):
        journal.keep(job, count(job))
    return sorted(folder.glob("*.safetensors"))


def test_a_process_that_was_killed_while_it_began_leaves_a_folder_that_can_be_begun(tmp_path):
    (tmp_path / ".manifest.json.x7a_1b2c").mkdir()
    (tmp_path / ".manifest.json.x7a_1b2c" / "manifest.json").write_text('{"format": "pelluc')
    journal = Journal.open(tmp_path, identity={"function": "count"})
    assert journal.jobs is None
    journal.begin([1, 2])
    assert Journal.open(tmp_path, identity={"function": "count"}).jobs == [1, 2]


def test_a_manifest_cut_at_any_length_is_damage_and_is_said_to_be(tmp_path):
    begun(tmp_path)
    manifest = tmp_path / "manifest.json"
    whole = manifest.read_bytes()
    for length in range(len(whole)):
        manifest.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"manifest\.json must be the manifest of a journal, got: .*; choose"):
            begun(tmp_path)
        assert manifest.read_bytes() == whole[:length], "nothing is repaired silently"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([], "no format 'pellucid journal'"),
        ({"format": "pellucid activations"}, "no format 'pellucid journal'"),
        ({"identity": 3}, "no identity"),
        ({"jobs": None}, "no jobs"),
        ({"made_with": []}, "no made_with"),
        ({"identity": {"seed": float("nan")}}, "not JSON compliant"),
    ],
)
def test_a_manifest_that_is_something_else_is_refused_by_name(tmp_path, changed, said):
    begun(tmp_path)
    manifest = tmp_path / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(changed if isinstance(changed, list) else values | changed))
    with pytest.raises(CheckpointError, match=rf"must be the manifest of a journal, got: .*{said}.*; choose another"):
        begun(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{" * 10])
def test_a_manifest_of_garbage_is_refused(tmp_path, content):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match="must be the manifest of a journal"):
        begun(tmp_path)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(CheckpointError, match="must be the manifest of a journal"):
        begun(tmp_path)


def test_a_job_cut_at_any_length_is_damage_and_is_said_to_be(tmp_path):
    file, _ = filled(tmp_path)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=rf"{file.name} must hold what a job gave, got: .*; delete it, and"):
            Local().map(count, [1, 2, 3], journal=begun(tmp_path))
        assert file.read_bytes() == whole[:length]
    file.unlink()
    found = Local().map(count, [1, 2, 3], journal=begun(tmp_path))
    assert [len(result["x"]) for result in found] == [1, 2, 3]
    assert file.read_bytes() == whole, "the same work gives the same file"


@pytest.mark.parametrize("content", [b"garbage" * 30, bytes(200), b"\x08" + bytes(7) + b'{"a":{}}'])
def test_a_job_of_garbage_is_damage(tmp_path, content):
    _, file = filled(tmp_path)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{file.name} must hold what a job gave"):
        Local().map(count, [1, 2, 3], journal=begun(tmp_path))


def test_a_damaged_job_is_told_before_any_other_is_run(tmp_path):
    for file in filled(tmp_path):
        file.write_bytes(b"")
    with pytest.raises(CheckpointError):
        Local().map(lambda job: pytest.fail("nothing must run"), [1, 2, 3], journal=begun(tmp_path))


def test_a_job_that_is_a_folder_is_damage(tmp_path):
    file, _ = filled(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(CheckpointError, match="must hold what a job gave"):
        Local().map(count, [1, 2, 3], journal=begun(tmp_path))


def test_a_full_disk_leaves_the_finished_jobs_and_no_half_one(tmp_path):
    filled(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    journal = begun(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OutputError, match="must have room for what a job gave, got: .*; make room, and run it"):
            Local().map(lambda job: {"x": torch.ones(10_000)}, [1, 2, 3], journal=journal)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_place_that_cannot_be_written_is_refused_before_any_job(tmp_path):
    (tmp_path / "folder").mkdir()
    journal = Journal.open(tmp_path / "folder" / "journal", identity={})
    (tmp_path / "folder").rmdir()
    (tmp_path / "folder").touch()
    with pytest.raises(OutputError, match=r"manifest\.json must be writable, got: .*; choose another place"):
        journal.begin([1])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_locked_folder_is_refused_before_any_job(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="must be writable"):
            begun(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_journal_that_may_only_be_read_is_not_continued_but_read(tmp_path, monkeypatch):
    filled(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # as for who is not root
    with pytest.raises(OutputError, match="must be writable to be continued; copy it to another place"):
        begun(tmp_path)
    monkeypatch.undo()
    Local().map(count, [1, 2, 3], journal=begun(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    found = Local().map(lambda job: pytest.fail("all is there"), [1, 2, 3], journal=begun(tmp_path))
    assert len(found) == 3
