#!/usr/bin/env python
"""Runs Django's management commands with runqy's settings, beside a running `make run` on its Redis and keys."""

import os
import sys

from django.core.management import execute_from_command_line

from runqy.local.beside import variables_beside

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "runqy.settings")
    os.environ.update(variables_beside(os.environ))
    execute_from_command_line(sys.argv)
