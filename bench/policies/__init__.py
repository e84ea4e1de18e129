"""Policies beside each other on the same requests, in virtual time: `python -m bench.policies`."""
