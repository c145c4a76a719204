"""The only package that accesses Redis: keys, messages, scripts and the operations on tasks. Does not import Django."""
