"""CPU time of one process. (With all below it: `tree_cpu_s` in bench/sides.py.)"""

from __future__ import annotations

import time


def own_cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far, without its children, to the nanosecond (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)
