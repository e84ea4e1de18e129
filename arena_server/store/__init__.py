"""What the daemon keeps, in a database: battles and votes, keys, what they used, models added at run time."""
