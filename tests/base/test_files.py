"""Writing aside: whole files or none, whatever happens in between."""

import os
import stat

import pytest

from pellucid.base.errors import OutputError
from pellucid.base.files import check_place, clear_abandoned, written_aside


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_when_the_block_ends(tmp_path):
    with written_aside(tmp_path / "a.txt") as aside:
        aside.write_text("whole")
        assert not (tmp_path / "a.txt").exists()
        assert aside.name == "a.txt"
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert everything(tmp_path) == ["a.txt"]


def test_folders_on_the_way_are_made(tmp_path):
    with written_aside(tmp_path / "new" / "folder" / "a.txt") as aside:
        aside.write_text("whole")
    assert everything(tmp_path) == ["new", "new/folder", "new/folder/a.txt"]


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with written_aside(str(path)) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_whatever_ends_the_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), written_aside(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole(tmp_path):
    with written_aside(tmp_path / "model") as aside:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "a.txt").write_text("whole")
        assert not (tmp_path / "model").exists()
    assert everything(tmp_path) == ["model", "model/deep", "model/deep/a.txt"]


def test_of_an_old_folder_the_files_written_are_replaced_and_the_others_stay(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "deep" / "a.txt").write_text("old")
    (tmp_path / "model" / "mine.txt").write_text("mine")
    with written_aside(tmp_path / "model") as aside:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "a.txt").write_text("new")
        (aside / "b.txt").write_text("new")
    assert everything(tmp_path / "model") == ["b.txt", "deep", "deep/a.txt", "mine.txt"]
    assert (tmp_path / "model" / "deep" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("name", [".", "out/..", "sub/../."])
def test_the_current_folder_may_be_written_into_by_its_short_names(tmp_path, monkeypatch, name):
    (tmp_path / "here" / "out").mkdir(parents=True)
    (tmp_path / "here" / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with written_aside(name) as aside:
        aside.mkdir()
        (aside / "a.txt").write_text("whole")
    assert everything(tmp_path) == ["here", "here/a.txt", "here/out", "here/sub"]


def test_what_is_written_may_be_read_by_those_who_may_read_other_new_files(tmp_path):
    (tmp_path / "plain").touch()
    with written_aside(tmp_path / "aside") as aside:
        aside.touch()
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "aside")}
    assert len(modes) == 1


def test_a_place_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file/a\.txt must be writable, got: .*; choose another place"),
        written_aside(tmp_path / "file" / "a.txt"),
    ):
        pytest.fail("the block must not run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_locked_is_refused_by_name(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="must be writable"), written_aside(tmp_path / "a.txt"):
            pytest.fail("the block must not run")
    finally:
        tmp_path.chmod(0o700)


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match="folder cannot be replaced by what was written"),
        written_aside(tmp_path / "folder") as aside,
    ):
        aside.touch()
    with pytest.raises(OutputError, match="file cannot be replaced"), written_aside(tmp_path / "file") as aside:
        aside.mkdir()
    assert everything(tmp_path) == ["file", "folder"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(OutputError, match=r"a\.txt cannot be replaced"), written_aside(tmp_path / "a.txt"):
        pass
    assert everything(tmp_path) == []


def test_what_killed_processes_left_is_cleared_away_and_nothing_else(tmp_path):
    for name in (".report.html.a1b2c3d4", ".step-0001.zz_9aaaa", ".other.a1b2c3d4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    (tmp_path / "report.html").write_text("whole")
    (tmp_path / ".hidden").write_text("mine")
    clear_abandoned(tmp_path, "report.html")
    clear_abandoned(tmp_path, "step-*")
    assert {path.name for path in tmp_path.iterdir()} == {".other.a1b2c3d4", "report.html", ".hidden"}
    clear_abandoned(tmp_path / "nowhere")


def test_a_place_is_looked_at_without_a_trace(tmp_path):
    (tmp_path / "file").write_text("old")
    check_place(tmp_path / "new" / "page.html")
    check_place(tmp_path / "file")
    check_place(tmp_path, folder=True)
    with pytest.raises(OutputError, match="must be a folder, got a file of that name; choose another place"):
        check_place(tmp_path / "file", folder=True)
    with pytest.raises(OutputError, match="must be a file, got a folder of that name"):
        check_place(tmp_path)
    with pytest.raises(OutputError, match="page.html must be writable, got: Not a directory"):
        check_place(tmp_path / "file" / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"
