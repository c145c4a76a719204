"""Brings a queue's code onto this machine: git checkout, virtual environment, bookkeeping. Knows no Django."""
