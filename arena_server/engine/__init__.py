"""Engines: one running vLLM server per model, each in a process of its own."""
