"""The AWS command line, kept warm: `python -m tests.scripts.aws_cli SOCKET` forks a child for each call.

The script under test makes ten calls a run, and each `aws` of its own would import for a second.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

# What stands in PATH as `aws`: hands its arguments, environment and files over, and ends as the child ended.
SHIM = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({socket!r})
    ask = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(server, [len(ask).to_bytes(4, "big") + ask], [0, 1, 2])
    sys.exit(int(server.recv(16)))
"""


def write_shim(directory: Path, path: Path) -> None:
    """Put an `aws` into the directory that asks the server at the socket `path`."""
    shim = directory / "aws"
    shim.write_text(SHIM.format(python=sys.executable, socket=str(path)))
    shim.chmod(0o755)


def main(path: str) -> None:
    """Serve until the end of standard input's other side kills this process."""
    from awscli.clidriver import create_clidriver  # type: ignore[import-untyped]

    driver = create_clidriver()
    for service in ("ec2", "ssm"):
        for kind in ("service-2", "waiters-2", "paginators-1", "endpoint-rule-set-1"):
            driver.session.get_component("data_loader").load_service_model(service, kind)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                message, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                while len(message) < 4 + int.from_bytes(message[:4], "big"):
                    message += connection.recv(1 << 20)
                args, env, cwd = json.loads(message[4:])
                if (child := os.fork()) == 0:
                    for number, file in enumerate(files):
                        os.dup2(file, number)
                    os.environ.clear()
                    os.environ.update(env)
                    os.chdir(cwd)
                    status = 255
                    try:
                        status = driver.main(args)
                        sys.stdout.flush()
                    finally:
                        os._exit(status)
                for file in files:
                    os.close(file)
                connection.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF).encode())


if __name__ == "__main__":
    main(sys.argv[1])
