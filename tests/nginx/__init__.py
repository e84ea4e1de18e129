"""nginx, the shipped site, in front of the daemon."""
