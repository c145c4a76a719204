"""Tasks in Redis: enqueue, dequeue, lease, finish, cancel, read and list them."""
