import torch

import pellucid.base.memory as memory

CPU = torch.device("cpu")


def group(folder, *, limit, used, **stat):
    """A container's files, as the kernel writes them."""
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))


def test_the_page_cache_counts_as_free(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    group(tmp_path, limit=1000, used=990, anon=290, file=700, inactive_file=500, active_file=150)
    assert memory.free_memory(CPU) == 660


def test_a_group_that_is_full_has_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    group(tmp_path, limit=1000, used=1010, inactive_file=3, active_file=4)
    assert memory.free_memory(CPU) == 0


def test_without_a_limit_the_machines_memory_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: 77)
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_memory(CPU) == 77
    group(tmp_path, limit="max", used=990, inactive_file=0, active_file=0)
    assert memory.free_memory(CPU) == 77


def test_a_machine_that_does_not_tell_gives_none(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_available", lambda: None)
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free_memory(CPU) is None
    assert memory.free_memory(torch.device("meta")) is None
