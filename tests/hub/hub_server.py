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
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fake_hub import MEMBER, TOKEN, FakeHub, Repo, git_hash
from hub_answers import Answering


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it; ``hub.endpoint`` is its address."""

    class Handler(_Handler):
        pass

    Handler.hub, Handler.routes = hub, _ROUTES
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


class _Handler(Answering):
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
