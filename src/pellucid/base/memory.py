"""How much memory is free, so that what cannot fit is refused beforehand."""

from pathlib import Path

import torch

GROUP = Path("/sys/fs/cgroup")
"""Where a container finds its own limits (cgroup version 2)."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    told = [_available(), _room_in_group()]
    return min((room for room in told if room is not None), default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None


def _room_in_group() -> int | None:
    """What a container's limit leaves ("max" means no limit)."""
    try:
        limit = (GROUP / "memory.max").read_text().strip()
        used = int((GROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        # Files that were read count as used, but give way to what needs the room.
        used -= int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
        return None if limit == "max" else max(0, int(limit) - used)
    except (OSError, ValueError):
        return None
