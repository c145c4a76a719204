"""Reads the environment: variables, URLs of connections, the folder RUNQY_HOME, the limits of the process."""
