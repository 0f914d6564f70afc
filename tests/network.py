"""Two network namespaces and a link between them that can be cut, lossy and slow.

The link is a pair of TUN devices, one in each namespace; a thread of the tests carries
each packet from one to the other, later if told so. The rest is done with the real
thing: a device that is down, and rules of nftables where the packets come in. It needs
root, and touches nothing but what it made.
"""

import contextlib
import fcntl
import heapq
import itertools
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Dict, List, Tuple

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_numbers = itertools.count()


def why_not() -> str:
    """What is missing for it; empty: nothing."""
    if os.geteuid() != 0:
        return "namespaces of the network need root"
    for command, package in (("ip", "iproute2"), ("nft", "nftables")):
        if not shutil.which(command):
            return f"{command} is not installed (Debian: apt install {package})"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    return ""


def run(*command: str) -> str:
    """Run it to its end and return what it said."""
    done = subprocess.run(command, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout.decode()


class Namespace:
    """One end: a network of its own, with an address on the link.

    Attributes:
        python: a command that runs this Python there, with arguments as Python's.
    """

    def __init__(self, directory: Path, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.device = name
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        python = directory / f"python_in_{name}"
        # The shell is replaced: what is started is Python, and signals reach it.
        python.write_text(
            f'#!/bin/sh\nexec ip netns exec {name} "{sys.executable}" "$@"\n'
        )
        python.chmod(0o755)
        self.python = str(python)

    def take(self, device: str) -> None:
        """This device of the machine is the end of the link from now on."""
        self.device = device
        run("ip", "link", "set", device, "netns", self.name)
        run("ip", "-n", self.name, "addr", "add", f"{self.address}/24", "dev", device)
        self.set("up")

    def set(self, state: str) -> None:
        """The device ``up``, or ``down``."""
        run("ip", "-n", self.name, "link", "set", self.device, state)

    def rule(self, which: str, verdict: str) -> None:
        """What happens to packets that come in from the link, in nftables' words."""
        table = "add table inet fault; add chain inet fault in"
        hook = "{ type filter hook input priority 0; }"
        rule = f'iifname "{self.device}" {which} counter {verdict}'
        commands = f"{table} {hook}; add rule inet fault in {rule}"
        run(*self._inside("nft", commands))

    def hits(self) -> int:
        """How many packets the rule was applied to."""
        said = run(*self._inside("nft", "list", "table", "inet", "fault"))
        return int(said.rsplit("packets", 1)[1].split()[0])

    def no_rule(self) -> None:
        run(*self._inside("nft", "delete", "table", "inet", "fault"))

    def _inside(self, *command: str) -> Tuple[str, ...]:
        return ("ip", "netns", "exec", self.name, *command)

    def close(self) -> None:
        run("ip", "netns", "del", self.name)


class Link:
    """Both ends, and what carries the packets between them; a context manager.

    Attributes:
        delay: seconds that a packet takes, in either direction.
    """

    def __init__(self, directory: Path) -> None:
        self.delay = 0.0
        self.ends: List[Namespace] = []
        self._other: Dict[int, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._close = contextlib.ExitStack()
        number = next(_numbers)
        with contextlib.ExitStack() as undo:
            tuns = []
            for end in (1, 2):
                # A device's name has at most 15 characters.
                name = f"ep{os.getpid()}x{number}x{end}"[-15:]
                address = f"10.231.{number % 250 + 1}.{end}"
                one = Namespace(directory, name, address)
                undo.callback(one.close)
                tuns.append(_tun(f"t{name}"[:15]))
                undo.callback(os.close, tuns[-1])
                one.take(f"t{name}"[:15])
                self.ends.append(one)
            self._other = {tuns[0]: tuns[1], tuns[1]: tuns[0]}
            self._close = undo.pop_all()

    def __enter__(self) -> "Link":
        self._thread.start()
        return self

    def __exit__(self, *anything: object) -> None:
        self._done.set()
        self._thread.join(10)
        self._close.close()

    def cut(self) -> None:
        for end in self.ends:
            end.set("down")

    def mend(self) -> None:
        for end in self.ends:
            end.set("up")

    def _carry(self) -> None:
        """Read packets, and write each to the other end when its time has come."""
        waiting: List[Tuple[float, int, int, bytes]] = []
        numbers = itertools.count()
        while not self._done.is_set():
            next_at = waiting[0][0] if waiting else time.monotonic() + 0.05
            wait = max(0.0, min(0.05, next_at - time.monotonic()))
            for tun in select.select(list(self._other), [], [], wait)[0]:
                with contextlib.suppress(OSError):  # it is down
                    packet = os.read(tun, 65536)
                    due = time.monotonic() + self.delay
                    entry = (due, next(numbers), self._other[tun], packet)
                    heapq.heappush(waiting, entry)
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, tun, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    os.write(tun, packet)


def _tun(name: str) -> int:
    """A TUN device of that name; it is there as long as this file is open."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    wanted = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(tun, _TUNSETIFF, wanted)
    return tun
