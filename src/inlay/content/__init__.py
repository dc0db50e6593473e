"""Blobs on disk by their digest, on their way there, and read while they come in."""
