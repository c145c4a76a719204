"""Ports are looked at before a server is started on one."""

import socket

import pytest

from runqy.errors import StackFailed
from runqy.supervisor.ports import find_free_port, format_address, is_served, require_free_port


def test_busy_port_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(StackFailed, match=f"port {port} cannot be used: address already in use"):
            require_free_port("127.0.0.1", port)


def test_free_port_is_accepted():
    require_free_port("127.0.0.1", find_free_port())


def test_free_port_is_not_served():
    assert not is_served("127.0.0.1", find_free_port())


def test_ipv6_addresses_are_in_brackets():
    assert [format_address(host, 3000) for host in ("127.0.0.1", "::1")] == ["127.0.0.1:3000", "[::1]:3000"]
