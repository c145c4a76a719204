"""What waits in Redis until maintenance writes it to the database: ended attempts, counters, audit records."""
