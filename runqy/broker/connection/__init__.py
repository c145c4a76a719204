"""Connections to Redis on an event loop: single servers, Sentinel and Cluster."""
