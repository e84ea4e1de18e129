"""Which worker gets which tests where several run them (pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# What is in these directories shares what takes long to make: a host that is set up, a daemon that has imported vLLM.
SHARING = ("tests/host", "tests/vllm")
# These do not: they have daemons of their own, and may run beside the others.
ALONE = frozenset(f"tests/vllm/test_{name}.py" for name in ("arena", "demo", "faults", "privacy", "reload", "usage"))


class Together(LoadFileScheduling):  # type: ignore[misc]
    """`--dist loadfile` with the sharing directories' files in one piece each."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        directory = file.rpartition("/")[0]
        return directory if directory in SHARING and file not in ALONE else file
