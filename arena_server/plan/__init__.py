"""How large models are, what fits on a card, and their weights ahead of time."""
