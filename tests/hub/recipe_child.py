"""Takes every recipe given as a training would, and says what each came to: in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from watched import Watch, peak

from irnet_convert.errors import IrnetError
from irnet_convert.policy import LayerInfo
from irnet_convert.pretrained.dry import check_networks
from irnet_convert.recipe import Recipe

LAYERS = [
    LayerInfo(paths=("a" * n,), kinds=("Conv2d", "Module"), kernel_size=(3, 3), in_channels=8, out_channels=8)
    for n in range(1, 60)
]


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


def main() -> None:
    """Warm up on good ones, then take every case from stdin."""
    watch, orders = Watch(), json.load(sys.stdin)
    for name in orders["good"]:
        assert attempt(name)["outcome"] == "taken", attempt(name)
    found, before = {}, peak()
    for case, name in orders["cases"].items():
        with watch.on() as events:
            one = attempt(name)
        found[case] = {**one, "bytes": peak() - before, "events": events}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
