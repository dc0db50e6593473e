"""LLB, BuildKit's build graph: the ops, their bytes, their digests and their cache keys. No I/O."""
