"""The real huggingface_hub client, pointed at a Hub on loopback, with a cache of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import FakeHub, running
from huggingface_hub import constants
from huggingface_hub.utils import _http


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub to fill; nobody is logged in, and waits between attempts are short."""
    with running(FakeHub()) as made:
        use(made, tmp_path / "hf", monkeypatch)
        yield made
        _http.close_session()


def use(made: FakeHub, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment variables would do, had they been set before huggingface_hub was imported."""
    for key in [key for key in os.environ if key.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(key)
    for key, value in environment(made, home).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    origins = {_http._url_origin(made.endpoint)}
    monkeypatch.setattr(_http, "_HUB_ORIGINS", frozenset(origins))
    sleep = _http.time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: sleep(min(seconds, 0.02)))
    _http.close_session()


def environment(made: FakeHub, home: Path) -> dict[str, str]:
    """The variables of a process that uses this Hub."""
    return {
        "HF_ENDPOINT": made.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """huggingface_hub 2.4 uploads LFS files by an argument of httpx2's that is deprecated."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))
