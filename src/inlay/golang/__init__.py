"""What of Go's standard library cache keys, digests and messages depend on, done as Go does it."""
