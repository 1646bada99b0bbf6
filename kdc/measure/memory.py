"""Memory of this process. Standard library only, where the system allows: what is loaded to ask would be counted."""

from __future__ import annotations

import sys
from pathlib import Path


def resident_bytes() -> tuple[int, int]:
    """Memory of this process now and at its highest."""
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in fields:
            return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return memory.rss, memory.peak_wset
    import resource

    # macOS counts bytes, the others kilobytes.
    return memory.rss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
