"""The API key that a command shows the daemon: from the environment or a file, as `ps` shows a command line to all."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from pathlib import Path

from arena_server.errors import ConfigError

VARIABLE = "ARENA_API_KEY"
LONGEST = 4096  # characters; whoever names the wrong file is told so, and not the daemon


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, which nothing prints, and where it was found."""

    text: str = field(repr=False)
    source: str


def add_key_file(parser: ArgumentParser) -> None:
    """Add the option `--key-file`."""
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"where the API key is, if one is needed (else ${VARIABLE})"
    )


def key_of(args: Namespace) -> ApiKey | None:
    """The key for a command that has the option `--key-file`, if there is one. Raises ConfigError."""
    file: Path | None = args.key_file
    if file is not None:
        return _checked(_read(file), str(file))
    text = os.environ.get(VARIABLE, "").strip()
    return _checked(text, f"${VARIABLE}") if text else None


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(LONGEST + 1).decode("latin-1").strip()
    except OSError as e:
        raise ConfigError([f"--key-file {file}: {e.strerror}"]) from None


def _checked(text: str, source: str) -> ApiKey:
    """It goes into a header, where a line's end would begin another one."""
    if not text:
        raise ConfigError([f"{source}: there is no key in it"])
    if len(text) > LONGEST or not (text.isascii() and text.isprintable()) or " " in text:
        raise ConfigError([f"{source}: that is no key: one line of visible ASCII characters, without spaces"])
    return ApiKey(text, source)
