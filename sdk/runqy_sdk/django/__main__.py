"""`python -m runqy_sdk.django` runs the tasks of a Django project, as the `startup_cmd` of a queue."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import django
from django.utils.module_loading import autodiscover_modules

from runqy_sdk import Context, load, run, task
from runqy_sdk.django.execution import execute


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m runqy_sdk.django", description="Run tasks of a Django project.")
    parser.add_argument("--settings", help="the settings' module, instead of DJANGO_SETTINGS_MODULE")
    if settings := parser.parse_args().settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = settings
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        sys.exit("Name the settings: python -m runqy_sdk.django --settings mysite.settings")
    run()


@load
def set_up_django() -> None:
    django.setup()
    autodiscover_modules("tasks")


@task
def run_task(payload: Any, ctx: Context) -> Any:
    return execute(payload, ctx)


if __name__ == "__main__":
    main()
