"""The ends of tasks that are told to webhooks and batches: from Redis's streams to those who consume them."""
