"""arena-server: more vLLM models than fit in GPU memory, behind one OpenAI-compatible port."""

__version__ = "0.1.0"
