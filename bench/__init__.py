"""Benchmarks. Each compares with a baseline in the same run: `python -m bench.NAME --help`."""
