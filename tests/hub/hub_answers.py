"""How a Hub on 127.0.0.1 takes requests and writes answers, whole or broken as planned."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from fake_hub import FakeHub


class Answering(BaseHTTPRequestHandler):
    """Takes a request, meets its planned fault, hands it to its route, and writes what that answers."""

    hub: FakeHub
    #: Pattern of the whole path → what answers it, called with the handler and the pattern's groups.
    routes: ClassVar[list[tuple[str, Callable[..., None]]]] = []
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
        for pattern, answer in self.routes:
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
