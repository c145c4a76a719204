"""Connections to Redis, blocking and on an event loop: single servers, Sentinel and Cluster."""
