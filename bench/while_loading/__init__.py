"""Streams while another model loads: `python -m bench.while_loading`."""
