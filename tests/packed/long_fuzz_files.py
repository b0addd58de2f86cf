"""100,000 spoiled packed files: refused by the project's own error, or harmless. Part of ``make test-long``.

The name keeps it out of ``make test``, where test_native_elsewhere.py tries a few, under sanitizers.
"""

from __future__ import annotations

import pytest
from file_cases import Parts
from fuzzed_files import good_files, try_bytes, try_parts

RAW, SEALED = 60_000, 40_000


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> list[Parts]:
    return good_files(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("seed", range(6))
def test_spoiled_bytes(seed: int, goods: list[Parts]) -> None:
    try_bytes(goods, seed, RAW // 6)


@pytest.mark.parametrize("seed", range(8))
def test_spoiled_parts(seed: int, goods: list[Parts]) -> None:
    assert try_parts(goods, seed, SEALED // 8) > 100
