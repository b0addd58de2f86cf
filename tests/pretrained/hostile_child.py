"""Loads every directory and packed file given, and says what each came to: run in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from watched import Watch, peak

import irnet_convert
from irnet_convert.errors import IrnetError


def attempt(path: Path) -> dict[str, Any]:
    """Load one; the processor time that it takes, whatever else the machine does."""
    started, said = time.process_time(), None
    try:
        irnet_convert.load_packed(path) if path.is_file() else irnet_convert.from_pretrained(path)
        outcome = "loaded"
    except IrnetError as error:
        outcome, said = "refused", f"{type(error).__name__}: {error}"
    except BaseException as error:
        outcome, said = "broken", f"{type(error).__name__}: {error}"[:500]
    return {"case": path.stem, "outcome": outcome, "said": said, "seconds": time.process_time() - started}


def main(folder: Path, good: list[Path]) -> None:
    """Warm up on good ones, then load everything in ``folder``."""
    watch = Watch()
    for path in good:
        assert attempt(path)["outcome"] == "loaded", attempt(path)
    found, before = [], peak()
    for path in sorted(folder.iterdir()):
        with watch.on() as events:
            one = attempt(path)
        found.append({**one, "bytes": peak() - before, "events": events})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
