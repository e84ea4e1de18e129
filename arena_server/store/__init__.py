"""What the arena keeps: battles, their answers' facts, and votes, in a database."""
