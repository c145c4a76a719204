"""The HTTP API of workers."""
