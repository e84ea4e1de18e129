"""Ports for programs that cannot be told to take any free one and say which."""

from __future__ import annotations

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1, all different, that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [taken.getsockname()[1] for taken in sockets]
