"""A person's evening: arena battles over more models than fit, against the plain-LRU daemon of the usual recipe."""
