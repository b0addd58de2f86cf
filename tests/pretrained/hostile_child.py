"""Loads every directory and packed file given, and says what each came to: run in a process of its own."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import irnet_convert
from irnet_convert.errors import IrnetError

#: What Python reports of a file opened for writing, a connection or a program that is started.
_WRITES = ("w", "a", "x", "+")
events: list[str] = []
watching = False


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: what is done to the world outside of the process."""
    if not watching:
        return
    if event == "open":
        path, mode, flags = args
        if (isinstance(mode, str) and any(c in mode for c in _WRITES)) or (mode is None and flags & 3):
            events.append(f"open {path}")
    elif event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec",
                   "os.mkdir", "os.rename", "os.remove", "pickle.find_class", "shutil.rmtree"):  # fmt: skip
        events.append(f"{event} {args}"[:200])


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


def peak() -> int:
    """Most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(folder: Path, good: list[Path]) -> None:
    """Warm up on good ones, then load everything in ``folder``."""
    global watching
    sys.addaudithook(watch)
    for path in good:
        assert attempt(path)["outcome"] == "loaded", attempt(path)
    found = []
    for path in sorted(folder.iterdir()):
        before, watching = peak(), True
        one = attempt(path)
        watching = False
        found.append({**one, "bytes": peak() - before, "events": events[:]})
        events.clear()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
