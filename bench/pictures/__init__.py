"""One picture per benchmark, drawn from the figures of its result: `python -m bench.page`. Needs matplotlib."""
