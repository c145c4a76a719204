"""The worker: registers, takes tasks and runs them in warm child processes. Knows no Django."""
