"""The worker: registers, dequeues tasks and runs them in warm child processes. Does not import Django."""
