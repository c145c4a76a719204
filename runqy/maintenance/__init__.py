"""The loop that runs maintenance duties. Apps register theirs; any number of processes may run them side by side."""
