"""A Hub on 127.0.0.1: the part of the Hugging Face Hub's HTTP protocol that its client uses here.

Repository info and refs, ``resolve`` (HEAD and GET, ETag, commit, ranges; LFS files by a redirect to another
origin), create, preupload, the LFS batch, upload and verify calls, and NDJSON commits. Repositories may be
private or gated, and faults can be planned: an answer of 5xx, a connection that breaks before or in the
middle of a body, an answer that is no JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it; ``hub.endpoint`` is its address."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, OSError):  # a fault of ours, or a client that went away
            self.close_connection = True

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        self.body = self._read_body()
        self.fault = self.hub.fault_of(method, self.path)
        with self.hub.lock:
            self.hub.requests.append((method, self.path, self.headers.get("Authorization")))
        if self.fault == "refuse":
            self._break(hard=False)
            return
        if self.fault == "silence":
            self.hub.closed.wait(30)
            self._break(hard=False)
            return
        self.hub.wait_for_others(method, self.path)
        if self.fault == "slow":
            threading.Event().wait(5)  # time.sleep is short in the tests
        if self.fault is not None and self.fault.isdigit():
            self._say(int(self.fault), {"error": "planned"})
            return
        if self.fault == "html":
            self._send(200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
            return
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found:
                answer(self, *found.groups())
                return
        self._say(404, {"error": "no such route"})

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    # --- answers ---

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        length = len(data)
        if self.fault == "lie":
            data = data[: length // 2]
            length = len(data)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault in ("drop", "reset"):
            self.wfile.write(data[: length // 2])
            self.wfile.flush()
            self._break(hard=self.fault == "reset")
            return
        self.wfile.write(data)

    def _break(self, *, hard: bool) -> None:
        if hard:  # a reset instead of an end
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR) if not hard else None
        finally:
            self.connection.close()

    def _say(self, status: int, data: Any, headers: Mapping[str, str] = {}) -> None:
        self._send(status, json.dumps(data).encode(), {"Content-Type": "application/json", **headers})

    def _refuse(self, status: int, code: str, words: str, **headers: str) -> None:
        self._say(status, {"error": words}, {"X-Error-Code": code, "X-Error-Message": words, **headers})

    # --- who may see what ---

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repo(self, kind: str, repo_id: str) -> Repo | None:
        """The repository, or None after the refusal has been sent."""
        repo = self.hub.repos.get((kind, repo_id))
        if self.token is not None and self.token not in (TOKEN, MEMBER):
            self._say(
                401, {"error": "Invalid"}, {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
            return None
        if repo is None or (repo.private and self.token is None):
            # The Hub does not tell the two apart, and answers 401 to those who are not logged in.
            status = 404 if self.token else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
            return None
        return repo

    # --- routes ---

    def info(self, kind: str, repo_id: str, revision: str | None = None) -> None:
        repo = self._repo(kind.removesuffix("s"), repo_id)
        if repo is None:
            return
        found = repo.at(revision)
        if repo.gated_info and self.token != MEMBER:
            self._refuse(403 if self.token else 401, "GatedRepo", f"Access to {repo_id} is restricted")
            return
        if found is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        sha, files = found
        blobs = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [
            {"rfilename": name} | (self._blob(repo, name, data) if blobs else {})
            for name, data in files.items()
        ]
        said = {
            "id": repo_id,
            "sha": sha,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
        }
        self._say(200, {**said, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _blob(self, repo: Repo, name: str, data: bytes) -> dict[str, Any]:
        size = repo.claims.get(name, len(data))
        lfs = {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
        return {"size": size, "blobId": git_hash(data)} | ({"lfs": lfs} if name in repo.lfs else {})

    def refs(self, kind: str, repo_id: str) -> None:
        repo = self._repo(kind.removesuffix("s"), repo_id)
        if repo is not None:
            kinds = (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
            said = {
                key: [{"name": n, "ref": f"refs/{ref}/{n}", "targetCommit": sha} for n, sha in where.items()]
                for key, ref, where in kinds
            }
            self._say(200, {**said, "converts": []})

    def resolve(self, kind: str | None, repo_id: str, revision: str, name: str) -> None:
        repo = self._repo((kind or "models/").removesuffix("s/"), repo_id)
        if repo is None:
            return
        if repo.gated and self.token != MEMBER:
            status = 403 if self.token else 401
            self._refuse(status, "GatedRepo", f"Access to {repo_id} is restricted")
            return
        found = repo.at(revision)
        if found is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        sha, files = found
        if name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
            return
        data = files[name]
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if name not in repo.lfs:
            self._content(data, {**headers, "ETag": f'"{git_hash(data)}"'})
            return
        oid = hashlib.sha256(data).hexdigest()
        self.hub.stored[oid] = data
        elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost")  # another origin, as the CDN is
        linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        self._send(302, b"", {**headers, **linked, "Location": f"{elsewhere}/cdn/{oid}?signed=1"})

    def cdn(self, oid: str) -> None:
        self._content(self.hub.stored[oid], {"ETag": f'"{oid}"'})

    def _content(self, data: bytes, headers: Mapping[str, str]) -> None:
        if self.command == "GET":
            self.hub.ranges.append(self.headers.get("Range"))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted:
            start = int(wanted[1])
            span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self._send(206, data[start:], {**headers, **span})
        else:
            self._send(200, data, headers)

    def create(self) -> None:
        said = json.loads(self.body)
        key = (said.get("type") or "model", f"{said['organization']}/{said['name']}")
        if self.token not in (TOKEN, MEMBER):
            self._say(401, {"error": "Invalid username or password."})
        elif said["organization"] == "others":
            self._say(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif key in self.hub.repos:
            self._say(
                409, {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{key[1]}"}
            )
        else:
            made = self.hub.repo(key[1], key[0], private=said.get("visibility") == "private")
            made.commit({".gitattributes": b"*.safetensors filter=lfs\n"})
            self._say(200, {"url": f"{self.hub.endpoint}/{key[1]}", "name": key[1], "id": key[1]})

    def validate(self) -> None:
        content = json.loads(self.body)["content"]
        if not content.startswith("---\n"):
            self._say(
                200, {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
            )
        elif "license: unheard-of" in content:
            self._say(400, {"errors": [{"message": "license must be one of ..."}], "warnings": []})
        else:
            self._say(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._repo(kind.removesuffix("s"), repo_id)
        if repo is None:
            return
        (_, files) = repo.at(revision) or ("", {})
        modes = []
        for each in json.loads(self.body)["files"]:
            large = each["path"].endswith((".safetensors", ".png"))
            there = files.get(each["path"])
            oid = None if there is None else hashlib.sha256(there).hexdigest() if large else git_hash(there)
            modes.append({"path": each["path"], "uploadMode": "lfs" if large else "regular",
                          "shouldIgnore": False, "oid": oid})  # fmt: skip
        self._say(200, {"files": modes})

    def batch(self, kind: str | None, repo_id: str) -> None:
        objects = []
        for each in json.loads(self.body)["objects"]:
            actions = {
                "upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}", "header": {}},
                "verify": {"href": f"{self.hub.endpoint}/lfs-verify", "header": {}},
            }
            there = each["oid"] in self.hub.stored
            objects.append({**each} if there else {**each, "actions": actions})
        self._say(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.stored[oid] = self.body
        self._send(200, b"")

    def verify(self) -> None:
        said = json.loads(self.body)
        there = self.hub.stored.get(said["oid"])
        self._say(200 if there is not None and len(there) == said["size"] else 404, {})

    def commit(self, kind: str, repo_id: str, revision: str) -> None:
        repo = self._repo(kind.removesuffix("s"), repo_id)
        if repo is None:
            return
        if self.token is None:
            self._say(401, {"error": "Invalid username or password."})
            return
        files: dict[str, bytes] = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
                repo.lfs.add(value["path"])
        sha = repo.commit(files, branch=revision)
        url = f"{self.hub.endpoint}/{repo_id}/commit/{sha}"
        self._say(200, {"success": True, "commitUrl": url, "commitOid": sha})


_ID = r"([\w.-]+/[\w.-]+)"
_API = r"/api/(models|datasets)/" + _ID
_ROUTES = [
    (rf"{_API}", _Handler.info),
    (rf"{_API}/revision/(.+)", _Handler.info),
    (rf"{_API}/refs", _Handler.refs),
    (rf"/(datasets/)?{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"/cdn/([0-9a-f]+)", _Handler.cdn),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate),
    (rf"{_API}/preupload/(.+)", _Handler.preupload),
    (rf"/(datasets/)?{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/lfs/([0-9a-f]+)", _Handler.store),
    (r"/lfs-verify", _Handler.verify),
    (rf"{_API}/commit/(.+)", _Handler.commit),
]


def git_hash(data: bytes) -> str:
    """Git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
