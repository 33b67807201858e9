"""How many cores this process may use, and how many threads that makes for each of several.

Sets nothing. Not the machine's cores count but those that its scheduler, its container and the user leave.
"""

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def threads_each(n_processes: int) -> int:
    """Threads for each of ``n_processes``: its share of cores, at least 1, at most ``OMP_NUM_THREADS``."""
    share = max(1, n_cores() // n_processes)
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else share


def n_cores() -> int:
    """Cores that this process may use: its affinity mask's, no more than its control group's quota."""
    try:
        n_allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        n_allowed = os.cpu_count() or 1
    quota = _quota(_CGROUPS)
    return max(1, n_allowed if quota is None else min(n_allowed, int(quota)))


def _quota(root: Path) -> float | None:
    """Cores' worth of time a container may use, by control groups of version 2 or 1; None without a limit.

    A container sees its own group at the root; limits of groups further up on a bare machine are not looked
    for.
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal():  # "max", or -1
        return None
    return int(quota) / max(1, int(period))
