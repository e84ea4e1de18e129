"""The operator's commands, which talk HTTP to a running daemon. They import nothing of the daemon, to start at once."""
