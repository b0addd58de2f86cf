"""Packed files spoiled at random: each is refused by the project's own error, or harmless when it runs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from file_cases import Parts, mixed_network, mutated, saved_parts
from packed_cases import packed_of, small_resnet

from irnet_convert.errors import IrnetError, PackedFileError, ProgramError
from irnet_convert.packed import save_packed
from irnet_convert.packed.container import sealed, unsealed
from irnet_convert.packed.file import _model_of

#: What PyTorch's operators raise on arguments that they refuse.
REFUSED_BY_TORCH = (RuntimeError, TypeError, ValueError, IndexError, KeyError, AttributeError)


def good_files(folder: Path) -> list[Parts]:
    """The parts of two files: a network with parts in PyTorch, and one that is a single program."""
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


def try_bytes(goods: Sequence[Parts], seed: int, count: int) -> None:
    """``count`` files whose bytes were spoiled, which the checksum finds."""
    draw = random.Random(seed)
    files = [sealed(parts.tensors, parts.texts) for parts in goods]
    for _ in range(count):
        try:
            tensors, texts = unsealed(spoiled(draw.choice(files), draw))
        except PackedFileError:
            continue
        assert Parts(tensors, texts) in goods


def try_parts(goods: Sequence[Parts], seed: int, count: int) -> int:
    """``count`` files spoiled under a right checksum, so that all behind it is reached.

    Returns:
        How many still loaded and were run.
    """
    x, ran = torch.zeros(1, 3, 17, 15), 0
    for number in range(count):
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
    return ran
