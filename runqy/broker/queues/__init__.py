"""Redis queues: pause, count and delete them."""
