"""Build container images from Dockerfiles without a daemon; the build cache travels inside the image."""

__version__ = "0.1.0"
