"""Small models that need no download, for trying the daemon on any machine."""
