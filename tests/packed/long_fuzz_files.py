"""100,000 spoiled packed files: refused by the project's own error, or harmless. Part of ``make test-long``.

The name keeps it out of ``make test``. Files are spoiled as bytes, which the checksum finds, and in their
parts under a right checksum, so that everything behind it is reached. What still loads is run, natively where
there are kernels: under a sanitizer build this also covers the C interface.
"""

from __future__ import annotations

import random

import pytest
import torch
from file_cases import Parts, mixed_network, mutated, saved_parts
from packed_cases import packed_of, small_resnet

from irnet_convert.errors import IrnetError, PackedFileError, ProgramError
from irnet_convert.packed import save_packed
from irnet_convert.packed.container import sealed, unsealed
from irnet_convert.packed.file import _model_of

RAW, SEALED = 60_000, 40_000
#: What PyTorch's operators raise on arguments that they refuse.
REFUSED_BY_TORCH = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)


@pytest.fixture(scope="module")
def goods(tmp_path_factory: pytest.TempPathFactory) -> list[Parts]:
    folder = tmp_path_factory.mktemp("good")
    found = []
    for number, packed in enumerate((mixed_network({"name": "a"}), packed_of(small_resnet()))):
        save_packed(packed, folder / str(number))
        found.append(saved_parts(folder / str(number)))
    return found


def spoiled(good: bytes, draw: random.Random) -> bytes:
    """Bytes set, flipped, cut out, put in, repeated, or the end cut off; more often in the header."""
    data = bytearray(good)
    header = 8 + int.from_bytes(good[:8], "little")
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(min(header, len(data)) if draw.random() < 0.7 else len(data))
        how = draw.randrange(6)
        if how == 0:
            data[place] = draw.randrange(256)
        elif how == 1:
            data[place] ^= 1 << draw.randrange(8)
        elif how == 2:
            del data[place : place + draw.randint(1, 40)]
        elif how == 3:
            data[place:place] = draw.randbytes(draw.randint(1, 40))
        elif how == 4:
            other = draw.randrange(len(data))
            data[place:place] = data[other : other + draw.randint(1, 40)]
        else:
            del data[place:]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_spoiled_bytes(seed: int, goods: list[Parts]) -> None:
    draw = random.Random(seed)
    files = [sealed(parts.tensors, parts.texts) for parts in goods]
    for _ in range(RAW // 6):
        try:
            tensors, texts = unsealed(spoiled(draw.choice(files), draw))
        except PackedFileError:
            continue
        assert Parts(tensors, texts) in goods


@pytest.mark.parametrize("seed", range(8))
def test_spoiled_parts(seed: int, goods: list[Parts]) -> None:
    x, ran = torch.zeros(1, 3, 17, 15), 0
    for number in range(SEALED // 8):
        parts = mutated(goods[number % 2], seed * 1_000_003 + number, 1 + number % 3)
        try:
            packed = _model_of(*unsealed(sealed(parts.tensors, parts.texts)))
        except (PackedFileError, ProgramError):
            continue
        ran += 1
        try:
            packed(x)
        except (IrnetError, *REFUSED_BY_TORCH):
            continue
    assert ran > 100
