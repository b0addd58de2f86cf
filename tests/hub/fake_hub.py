"""What a Hub on 127.0.0.1 holds: repositories, their commits, and the faults that are planned for it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TOKEN = "hf_reader"  # may read everything but gated repositories, and write
MEMBER = "hf_member"  # has accepted the gated repositories' terms


@dataclass
class Repo:
    """One repository: its commits, oldest first, and what points at them."""

    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    gated_info: bool = False  # the repository's info too, not its files alone
    lfs: set[str] = field(default_factory=set)
    #: Path → size to claim in listings, where it differs from the truth.
    claims: dict[str, int] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], *, tag: str | None = None, branch: str = "main") -> str:
        """A new commit with these files added to the last; its hash."""
        before = self.commits[-1][1] if self.commits else {}
        content = {**before, **files}
        said = json.dumps([len(self.commits), {k: hashlib.sha1(v).hexdigest() for k, v in content.items()}])
        sha = hashlib.sha1(said.encode()).hexdigest()
        self.commits.append((sha, content))
        self.branches[branch] = sha
        if tag is not None:
            self.tags[tag] = sha
        return sha

    def at(self, revision: str | None) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a branch, tag, or (whole) hash."""
        name = revision or "main"
        sha = self.branches.get(name) or self.tags.get(name) or name
        return next((each for each in self.commits if each[0] == sha), None)


@dataclass
class Fault:
    """What goes wrong with requests whose method and path match.

    Args:
        kind: a status ("500", "503", ...), "drop" (the connection breaks halfway through the body), "reset"
            (likewise, with a TCP reset), "refuse" (before any answer), "html" (an answer that is no JSON),
            "slow" (no answer for 5 s), "silence" (none for 30 s), "lie" (half the body, and a length that
            says it is whole).
        where: regular expression over ``"METHOD /path"``.
        times: how often; None is for ever.
    """

    kind: str
    where: str
    times: int | None = 1


class FakeHub:
    """Repositories by ``(type, "org/name")``, and a log of the requests that came."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Authorization
        self.ranges: list[str | None] = []  # the Range header of each GET of a file
        self.stored: dict[str, bytes] = {}  # LFS content by sha256
        self.endpoint = ""
        self.lock = threading.RLock()
        self.closed = threading.Event()
        self.meetings: dict[str, threading.Barrier] = {}

    def repo(self, repo_id: str, repo_type: str = "model", **keys: Any) -> Repo:
        """A new repository."""
        made = self.repos[(repo_type, repo_id)] = Repo(**keys)
        return made

    def fails(self, kind: str, where: str, times: int | None = 1) -> None:
        """Plan a fault."""
        self.faults.append(Fault(kind, where, times))

    def meet(self, where: str, count: int) -> None:
        """Answer requests whose ``"METHOD /path"`` matches only when so many of them have come."""
        self.meetings[where] = threading.Barrier(count, timeout=300)

    def wait_for_others(self, method: str, path: str) -> None:
        """Hold a request until those that it has to meet have come; never longer than five minutes."""
        for where, barrier in self.meetings.items():
            if re.search(where, f"{method} {path}"):
                barrier.wait()

    def asked(self, where: str) -> list[tuple[str, str, str | None]]:
        """The requests so far whose ``"METHOD /path"`` matches."""
        return [each for each in self.requests if re.search(where, f"{each[0]} {each[1]}")]

    def fault_of(self, method: str, path: str) -> str | None:
        """The fault that this request meets, used up by it."""
        with self.lock:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.where, f"{method} {path}"):
                    fault.times = fault.times if fault.times is None else fault.times - 1
                    return fault.kind
        return None


def git_hash(data: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
