"""The only owner of Redis: keys, messages, scripts and the verbs of a task's life. Knows no Django."""
