"""Ports are looked at before a server is started on one."""

import socket

import pytest

from runqy.errors import StackFailed
from runqy.stack.ports import find_free_port, format_address, is_served, require_free_port
from tests.support.servers import free_port


def test_busy_port_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(StackFailed, match=f"port {port} cannot be used: address already in use"):
            require_free_port("127.0.0.1", port)


def test_free_port_is_accepted():
    require_free_port("127.0.0.1", free_port())


def test_found_port_is_free_and_not_served():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", find_free_port()))

        assert not is_served(*server.getsockname())


def test_ipv6_addresses_are_in_brackets():
    assert [format_address(host, 3000) for host in ("127.0.0.1", "::1")] == ["127.0.0.1:3000", "[::1]:3000"]
