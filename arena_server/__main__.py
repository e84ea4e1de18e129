"""`python -m arena_server` is the `arena-server` command."""

from arena_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
