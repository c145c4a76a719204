"""The composition root of runqy, and what every app stands on: errors, clock, broker, API plumbing."""
