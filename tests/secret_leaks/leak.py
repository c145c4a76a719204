"""A test that leaks in a given way; `test_search.py` runs it to see that the run fails."""

import logging
import os
from pathlib import Path

import pytest
import redis as redis_py
from django.contrib.contenttypes.models import ContentType

from tests.support.secret_leaks import SUITE


def test_leaks(configuration: None, redis: redis_py.Redis, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    how = os.environ["RUNQY_TEST_LEAK"]
    if how == "log":
        logging.getLogger("leaky").warning("the value is %s", SUITE.secret())
    elif how == "redis":
        redis.set("key", SUITE.secret())
        redis.flushall()
    elif how == "database":
        ContentType.objects.create(app_label=SUITE.secret(), model="m")
    elif how == "file":
        (tmp_path / "worker.log").write_text(SUITE.secret())
