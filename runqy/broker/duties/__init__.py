"""What maintenance does to tasks in Redis: forward, recover, expire and restore them."""
