"""Loads and runs spoiled packed files with a native library that was built under the sanitizers.

``python sanitized_child.py LIBRARY FOLDER COUNT SEED`` prints how many of COUNT files were run; any finding
of a sanitizer ends the process. COUNT 0 reads behind the end of an array instead, which must be one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from irnet_convert import native

LIBRARY, FOLDER, COUNT, SEED = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
native.library_file = lambda: LIBRARY  # before anything asks for it

import torch  # noqa: E402
from fuzzed_files import good_files, try_bytes, try_parts  # noqa: E402

from irnet_convert.packed import engine, load_packed  # noqa: E402

found = engine.library()
assert found is not None
assert found.path == LIBRARY
torch.set_num_threads(2)
if COUNT:
    goods = good_files(FOLDER)
    network = load_packed(FOLDER / "1")
    network(torch.zeros(1, 3, 17, 15))
    assert any(isinstance(each.plan, engine.Plan) for each in engine._plans.values()), "nothing ran natively"
    try_bytes(goods, SEED, COUNT // 2)
    print("ran", try_parts(goods, SEED, COUNT - COUNT // 2))
else:
    passes = native.passes()
    assert passes is not None
    short = torch.zeros(100)
    passes.call("sign", (short, torch.empty(200)), 200)
    print("nobody noticed")
