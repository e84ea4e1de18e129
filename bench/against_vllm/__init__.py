"""The daemon beside the engine's own socket and vLLM's own server: `python -m bench.against_vllm`."""
