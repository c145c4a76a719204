"""The history of runs: recorded from Redis, counted by minute and hour, read, and deleted when it is old."""
