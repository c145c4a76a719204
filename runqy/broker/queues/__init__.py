"""Redis queues: pause, count, move, rename and delete them."""
