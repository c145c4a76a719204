"""Workers in Redis: their heartbeats, records, claims and users."""
