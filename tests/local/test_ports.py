"""Ports are looked at before a server is started on one."""

import socket

import pytest

from runqy.errors import StackFailed
from runqy.local.ports import find_free_port, is_served, require_free_port, spell_address


def test_busy_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(StackFailed, match=f"port {port} cannot be used: address already in use"):
            require_free_port("127.0.0.1", port)


def test_free_port_passes():
    require_free_port("127.0.0.1", find_free_port())


def test_nobody_answers_on_a_free_port():
    assert not is_served("127.0.0.1", find_free_port())


def test_ipv6_addresses_stand_in_brackets():
    assert [spell_address(host, 3000) for host in ("127.0.0.1", "::1")] == ["127.0.0.1:3000", "[::1]:3000"]
