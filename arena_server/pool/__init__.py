"""The pool: which models are awake, who waits, who leaves."""
