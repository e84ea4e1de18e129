"""Who may come in, to which routes, and how much they may ask."""
