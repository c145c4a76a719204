"""A test that leaks in given ways; `test_search.py` runs it to see that the run fails."""

import logging
import os
from pathlib import Path

import pytest
import redis as redis_py
from django.contrib.contenttypes.models import ContentType

from tests.support.secret_leaks import SUITE


def test_leaks(configuration: None, redis: redis_py.Redis, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    ways = os.environ["RUNQY_TEST_LEAK"].split()
    if "log" in ways:
        logging.getLogger("leaky").warning("the value is %s", SUITE.secret())
    if "redis" in ways:
        redis.set("key", SUITE.secret())
        redis.flushall()
    if "database" in ways:
        ContentType.objects.create(app_label=SUITE.secret(), model="m")
    if "file" in ways:
        (tmp_path / "worker.log").write_text(SUITE.secret())
