"""The arena: several models answer one person side by side, who may compare them, and vote blindly."""
