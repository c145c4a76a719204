"""The composition root of runqy, and what all apps use: errors, clock, broker, API base classes."""
