#!/usr/bin/env python
"""Runs Django's management commands in a clone, as `runqy manage` does where the server is installed."""

import sys

from runqy.manage import run_manage

if __name__ == "__main__":
    run_manage(sys.argv[0], sys.argv[1:])
