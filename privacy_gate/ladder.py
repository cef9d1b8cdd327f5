"""The evidence ladder: which evidence costs how much, and what it can decide."""
