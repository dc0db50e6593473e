"""File trees to read: what is in them, found by patterns, and what it hashes to."""
