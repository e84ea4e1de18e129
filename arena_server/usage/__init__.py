"""Who used which model how much, and what it cost."""
