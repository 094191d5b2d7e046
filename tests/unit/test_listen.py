"""Where a server cannot listen, and what to do about it."""

from __future__ import annotations

import os
import socket
from errno import EADDRINUSE, EADDRNOTAVAIL

import pytest

from vitascope.app.checks import listen
from vitascope.domain.errors import SettingsError


def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(SettingsError) as refused:
        listen("127.0.0.1", port := other.getsockname()[1])
    assert refused.value.message == f"cannot listen on `127.0.0.1` port {port}: {os.strerror(EADDRINUSE)}"
    assert refused.value.hint == "choose another port"


def test_an_address_of_another_machine() -> None:
    with pytest.raises(SettingsError) as refused:
        listen("192.0.2.1", 0)
    assert refused.value.message == f"cannot listen on `192.0.2.1` port 0: {os.strerror(EADDRNOTAVAIL)}"
    assert refused.value.hint == "choose an address of this machine"
