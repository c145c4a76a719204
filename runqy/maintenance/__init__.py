"""The loop that runs maintenance duties: periodic work, such as forwarding due tasks and deleting expired ones.

A duty is a class in an app's `duties.py`, which is discovered like `admin.py`:

    @register
    class Forwarder: ...

Any number of processes may run them at the same time.
"""
