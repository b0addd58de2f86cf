"""What points the real huggingface_hub client at a Hub on loopback, in this process or in another."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from irnet_convert.hub import fetch, parse_name, resolve

FILE = b"name: one\n" * 50

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["irnet_convert.train.__main__"])  # as the other tests do


def get(name: str, file: str = "recipe.yaml", **keys: bool) -> Path:
    return fetch(resolve(parse_name(name), **keys), file, max_bytes=1 << 20)


def use(endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment variables would do, had they been set before huggingface_hub was imported."""
    for key in [key for key in os.environ if key.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(key)
    for key, value in environment(endpoint, home).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # put back afterwards, also where a test goes offline
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    origins = {_http._url_origin(endpoint)}
    monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset(origins))
    sleep = _http.time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.02)))
    _http.close_session()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """The variables of a process that uses this Hub."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def take_in(processes: int, endpoint: str, home: Path, *names: str) -> list[list[str]]:
    """Take recipes in so many processes of one world, one after the other.

    Returns:
        For each process, for each recipe, where it came from, or the error's text.
    """
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        port = str(each.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    world |= {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    said = [CONTEXT.SimpleQueue() for _ in range(processes)]
    children: list[Any] = [
        CONTEXT.Process(
            target=_take,
            args=(endpoint, home, names, world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, queue),
        )
        for rank, queue in enumerate(said)
    ]
    for child in children:
        child.start()
    try:
        for child in children:
            child.join(100)
            assert child.exitcode == 0
        return [queue.get() for queue in said]
    finally:
        for child in children:
            child.kill()


def _take(endpoint: str, home: Path, names: tuple[str, ...], variables: dict[str, str], said: Any) -> None:
    use(endpoint, home, pytest.MonkeyPatch())
    os.environ.update(variables)
    from accelerate.state import PartialState

    from irnet_convert.errors import IrnetError
    from irnet_convert.train.taken import take

    lines = []
    for name in names:
        try:
            lines.append(str(take(name).given.file))
        except IrnetError as error:
            lines.append(f"error: {error}")
    said.put(lines)
    PartialState().destroy_process_group()
