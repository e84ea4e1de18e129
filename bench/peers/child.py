"""A program that is not ours, in a directory of its own, which ends when the benchmark does, even if that is killed.

python -m bench.peers.child DIRECTORY PROGRAM [ARGUMENT ...]
"""

from __future__ import annotations

import os
import sys

from arena_server.engine.parent_death import die_with_parent


def main() -> None:
    """Become the program. What asks for its death outlives the exec."""
    directory, program = sys.argv[1:3]
    die_with_parent(os.getppid())
    os.chdir(directory)
    os.execv(program, sys.argv[2:])


if __name__ == "__main__":
    main()
