"""Processes that may end while they are looked at: one that nobody has waited for yet (a zombie) has ended, too."""

from __future__ import annotations

import psutil


def lives(process: psutil.Process) -> bool:
    """Whether it runs still."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> str:
    """As `ps` shows it; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # ZombieProcess is one
        return ""
