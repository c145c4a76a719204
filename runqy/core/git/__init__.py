"""Calls the git command safely: allowed sources, credentials, time limits. Imports no Django."""
