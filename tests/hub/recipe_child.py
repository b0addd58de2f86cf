"""Takes every recipe given as a training would, and says what each came to: in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

from irnet_convert.errors import IrnetError
from irnet_convert.policy import LayerInfo
from irnet_convert.pretrained.dry import check_networks
from irnet_convert.recipe import Recipe

LAYERS = [
    LayerInfo(paths=("a" * n,), kinds=("Conv2d", "Module"), kernel_size=(3, 3), in_channels=8, out_channels=8)
    for n in range(1, 60)
]
_DONE = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.mkdir",
         "os.rename", "os.remove", "pickle.find_class", "shutil.rmtree")  # fmt: skip
events: list[str] = []
watching = False


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: what is done to the world outside of the process."""
    if not watching:
        return
    if event == "open" and ((isinstance(args[1], str) and set(args[1]) & set("wax+")) or args[2] & 3):
        events.append(f"open {args[0]}")
    elif event in _DONE:
        events.append(f"{event} {_whole(args)}"[:300])


def _whole(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """With the directory of a path that is relative to one that is open."""
    if len(args) == 2 and isinstance(args[1], int) and args[1] >= 0:
        return (f"{os.readlink(f'/proc/self/fd/{args[1]}')}/{args[0]}",)
    return args


def attempt(name: str) -> dict[str, Any]:
    """Load one, try its policy, build its networks; processor time, whatever else the machine does."""
    started, said = time.process_time(), None
    try:
        recipe = Recipe.load(name)
        policy = recipe.build_policy()
        for layer in LAYERS:
            policy.decide(layer)
        check_networks(recipe)
        outcome = "taken"
    except IrnetError as error:
        outcome, said = "refused", f"{type(error).__name__}: {error}"
    except BaseException as error:
        outcome, said = "broken", f"{type(error).__name__}: {error}"[:500]
    return {"outcome": outcome, "said": said, "seconds": time.process_time() - started}


def peak() -> int:
    """Most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Warm up on good ones, then take every case from stdin."""
    global watching
    sys.addaudithook(watch)
    orders = json.load(sys.stdin)
    for name in orders["good"]:
        assert attempt(name)["outcome"] == "taken", attempt(name)
    found = {}
    for case, name in orders["cases"].items():
        before, watching = peak(), True
        one = attempt(name)
        watching = False
        found[case] = {**one, "bytes": peak() - before, "events": events[:]}
        events.clear()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
