"""The real huggingface_hub client, pointed at a Hub on loopback, with a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub
from hub_client import use
from hub_server import running
from huggingface_hub.utils import _http


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub to fill; nobody is logged in, and waits between attempts are short."""
    with running(FakeHub()) as made:
        use(made.endpoint, tmp_path / "hf", monkeypatch)
        yield made
        _http.close_session()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """huggingface_hub 2.4 uploads LFS files by an argument of httpx2's that is deprecated."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"))
