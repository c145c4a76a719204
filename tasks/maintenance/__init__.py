"""Duties that keep tasks moving, one file each; any number of processes may run them side by side."""
