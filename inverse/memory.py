"""Memory that can still be allocated on a device."""

from __future__ import annotations

import math
import re
import resource
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated; None if unknown.

    On a GPU it is the driver's free memory and the cache of torch's allocator. On the host it is
    what the kernel reports as available, at most the limits of the control group and of the
    process (`ulimit -v`).
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
        if limit != "max":
            available = min(available, int(limit) - int(used))
        return int(max(0, min(available, _left_of_address_space())))
    except (OSError, TypeError, ValueError):
        return None


def _left_of_address_space() -> float:
    """Bytes that the limit of this process's address space leaves; infinity without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return math.inf
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return limit - pages * resource.getpagesize()


def what_fits(error: BaseException, device: torch.device | None = None) -> str:
    """What would fit after an allocation failed, in words.

    Args:
        error: its message states the bytes that were asked for, as torch's and numpy's do, or not.
        device: where the allocation failed; the host by default.
    """
    free = free_memory(device or torch.device("cpu"))
    found = re.search(r"([\d.]+) (bytes|KiB|MiB|GiB|TiB)", str(error))
    if free is None or found is None:
        known = "" if free is None else f"{free / 2**30:.1f} GiB are free; "
        return f"{known}an image of half its sides needs a quarter, and fewer samples need less"
    asked = float(found[1]) * 1024 ** ("bytes", "KiB", "MiB", "GiB", "TiB").index(found[2])
    share = min(1.0, math.sqrt(free / asked / 2)) if asked else 1.0
    fits = f"an image of {share:.0%} of its sides" if share < 0.71 else "an image of half its sides"
    return (
        f"{asked / 2**30:.1f} GiB more were asked for, {free / 2**30:.1f} GiB are free; "
        f"{fits}, or fewer samples, would fit"
    )


def usable_memory(device: torch.device) -> float | None:
    """Bytes that evaluations of a prior may take by default: four fifths of the free memory."""
    free = free_memory(device)
    return None if free is None else 0.8 * free
