"""The page in a real browser, over the daemon's real application and fake engines."""
