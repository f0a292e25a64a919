"""Two hosts on one machine: network namespaces, joined to it by a cable of their own, and gone again at the end.

Only root on Linux can make them. Whatever runs in one reaches nothing but this machine's end of its cable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "198.18.77.1"
"""This machine's address, of a range that is kept for such tests (RFC 2544)."""
NETWORK = "198.18.77.0/24"
_BRIDGE = "et-bridge"
_IP = [shutil.which("ip") or "ip"]


def why_not() -> str | None:
    """Say why there can be no hosts here, None if there can."""
    if not hasattr(os, "getuid") or os.getuid() != 0:
        return "only root makes network namespaces"
    if shutil.which("ip") is None:
        return "the program ip is not installed"
    name = f"et-{os.getpid()}"
    if subprocess.run([*_IP, "netns", "add", name], capture_output=True, check=False).returncode:
        return "this machine lets nobody make network namespaces"
    _ip("netns", "del", name)
    return None


@contextmanager
def two_hosts() -> Iterator[tuple[list[str], list[str]]]:
    """Yield, for each of two hosts, the words before a command that is to run there; `SERVER` is reached from both."""
    with ExitStack() as stack:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "del", _BRIDGE)
        _ip("addr", "add", f"{SERVER}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        hosts = [_host(stack, number) for number in (1, 2)]
        yield hosts[0], hosts[1]


def _host(stack: ExitStack, number: int) -> list[str]:
    name, here, there = f"et-host{number}", f"et-here{number}", f"et-there{number}"
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
    stack.callback(subprocess.run, [*_IP, "link", "del", here], capture_output=True, check=False)  # goes with its peer
    _ip("link", "set", here, "master", _BRIDGE, "up")
    inside = [*_IP, "netns", "exec", name]
    subprocess.run([*inside, "ip", "addr", "add", f"198.18.77.{number + 1}/24", "dev", there], check=True)
    subprocess.run([*inside, "ip", "link", "set", there, "up"], check=True)
    return inside


def _ip(*words: str) -> None:
    subprocess.run([*_IP, *words], check=True, capture_output=True)
