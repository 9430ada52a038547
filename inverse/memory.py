"""Memory that can still be allocated on a device."""

from __future__ import annotations

import re
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None if unknown.

    On a GPU it is the driver's free memory and the cache of torch's allocator. On the host it is
    what the kernel reports as available, at most the limit of the control group.
    """
    if device.type == "cuda":
        return (
            torch.cuda.mem_get_info(device)[0]
            + torch.cuda.memory_reserved(device)
            - torch.cuda.memory_allocated(device)
        )
    try:
        line = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        available = int(line[1]) * 1024  # type: ignore[index]
        group = [Path("/sys/fs/cgroup", name) for name in ("memory.max", "memory.current")]
        limit, used = (
            [path.read_text().strip() for path in group] if group[0].exists() else ("max", "0")
        )
        return available if limit == "max" else min(available, int(limit) - int(used))
    except (OSError, TypeError, ValueError):
        return None


def usable_memory(device: torch.device) -> float | None:
    """Bytes that evaluations of a prior may take by default: four fifths of the free memory."""
    free = free_memory(device)
    return None if free is None else 0.8 * free
