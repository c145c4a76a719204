"""Each role may use exactly its own pages and actions; the table lists every URL of the admin."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from alerts.models import Alert, AlertRule
from batches.models import Batch
from queues.models import Queue
from runqy.accounts.models import ApiKey
from runqy.admin_site.roles import ROLES
from runqy.audit.models import AuditRecord
from runqy.broker.broker import Broker
from schedules.models import Schedule
from tasks.models import BulkAction
from tests.admin_site.addresses import RULES
from tests.support.staff import client_of, create_roles, staff_client
from tests.support.workers import keep_records
from tools.demo.data import fill
from vaults.models import Vault
from webhooks.models import Endpoint

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("configuration")]


PUBLIC = {"login", "logout"}
NOT_OURS = {"search", "app_list", "autocomplete", "view_on_site"}
"""Nothing is shown there: not found, or led to the overview."""


def addresses(patterns: list[Any] | None = None) -> Iterator[str]:
    """Give the names of all addresses of the admin."""
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        if isinstance(pattern, URLResolver) and (patterns is not None or str(pattern.pattern) == "admin/"):
            yield from addresses(pattern.url_patterns)
        elif isinstance(pattern, URLPattern) and patterns is not None and pattern.name:
            yield pattern.name


@pytest.fixture
def paths(single_broker: Broker) -> dict[str, str]:
    """Fill the instance and return the values of the paths' parameters."""
    create_roles()
    fill(single_broker)
    keep_records(single_broker)
    rows = {
        "queue": Queue.objects.get(name="invoices"),
        "vault": Vault.objects.get(name="object-storage"),
        "key": ApiKey.objects.filter(revoked_at=None).latest("pk"),
        "user": User.objects.get(username="margaret"),
        "group": Group.objects.create(name="night shift"),
        "alert": Alert.objects.get(subject="invoices"),
        "rule": AlertRule.objects.get(),
        "endpoint": Endpoint.objects.get(url="https://shop.example.com/runqy"),
        "record": AuditRecord.objects.latest("number"),
        "batch": Batch.objects.get(),
        "schedule": Schedule.objects.get(name="purge-embeddings"),
        "bulk": BulkAction.objects.latest("pk"),
    }
    return {name: str(row.pk) for name, row in rows.items()}


def may(permissions: frozenset[str], needed: str | None) -> bool:
    """Return whether a role may do what needs a permission."""
    return needed is None or needed in permissions


def test_every_url_of_the_admin_is_in_the_table() -> None:
    assert set(addresses()) == RULES.keys() | PUBLIC | NOT_OURS


def test_each_role_sees_its_own_pages_and_no_others(paths: dict[str, str]) -> None:
    for role in (*ROLES, None):
        permissions = role.permissions if role else frozenset()
        client = staff_client(role.name if role else None)

        seen = {name: client.get(rule.path.format(**paths)).status_code for name, rule in RULES.items()}

        refused = {name for name, status in seen.items() if status in (403, 405)}
        assert refused == {name for name, rule in RULES.items() if not may(permissions, rule.get)}, role
        others = {name: status for name, status in seen.items() if name not in refused and status != 200}
        # These lead to other pages.
        assert others == {name: 302 for name in others if name.endswith(("_history", "_by_name"))}, role


@pytest.mark.parametrize("role", [*ROLES, None], ids=lambda role: role.name if role else "none")
def test_a_role_can_do_its_actions_and_no_others(paths: dict[str, str], role: Any) -> None:
    permissions = role.permissions if role else frozenset()
    client = staff_client(role.name if role else None)
    rules = {name: rule for name, rule in RULES.items() if rule.post}

    done = {name: client.post(rule.path.format(**paths), rule.form).status_code for name, rule in rules.items()}

    refused = {name for name, status in done.items() if status == 403}
    assert refused == {name for name, rule in rules.items() if not may(permissions, rule.post)}
    assert not [name for name, status in done.items() if status >= 500]


def test_users_who_are_not_staff_see_no_page(paths: dict[str, str]) -> None:
    anonymous, customer = Client(), client_of(User.objects.create_user("customer"))

    for client, method in itertools.product((anonymous, customer), ("get", "post")):
        public = {"jsi18n"} if method == "get" else set()
        for name, rule in RULES.items():
            response = getattr(client, method)(rule.path.format(**paths), rule.form)
            leads_to_login = response.status_code == 302 and response["Location"].startswith("/admin/login/")
            assert leads_to_login or name in public, (name, method, response.status_code)


def test_no_page_lets_the_first_visitor_become_an_administrator(paths: dict[str, str]) -> None:
    User.objects.all().delete()
    visitor = Client()
    form = {"username": "me", "password": "x", "password1": "x", "password2": "x", "is_superuser": "on"}

    for rule in RULES.values():
        visitor.get(rule.path.format(**paths))
        visitor.post(rule.path.format(**paths), form)
    response = visitor.post("/admin/login/", form)

    assert response.status_code == 200
    assert not User.objects.exists()
