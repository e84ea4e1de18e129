"""arena-server beside other front doors to the same engine: nginx, LiteLLM and FastChat."""
