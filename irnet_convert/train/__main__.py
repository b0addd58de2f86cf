"""``python -m irnet_convert.train RECIPE [key=value ...]``, alone or under ``accelerate launch``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from accelerate.state import PartialState

from irnet_convert.errors import IrnetError
from irnet_convert.hub import go_offline
from irnet_convert.train.run import Result, train_taken
from irnet_convert.train.taken import take

DESCRIPTION = """\
Train what a recipe says: build the network, binarize it, fine-tune it (with a teacher if the recipe has
one), evaluate it, and keep everything in a run directory."""

EXAMPLES = """\
examples:
  one process:      python -m irnet_convert.train digits
  other values:     python -m irnet_convert.train digits epochs=2 optimizer.lr=5e-4 output=runs/short
  two processes:    accelerate launch --multi_gpu --num_processes 2 -m irnet_convert.train digits
                    (--multi_gpu on a CPU too: there, Accelerate's --cpu starts only one process)
  go on:            python -m irnet_convert.train digits output=runs/short --resume
  from the Hub:     python -m irnet_convert.train org/name@v1
                    python -m irnet_convert.train hf://org/name@v1/other.yaml
  look at it:       irnet-convert eval runs/short

RECIPE is the name of a bundled recipe, the path of a YAML file or a name on the Hugging Face Hub, looked
for in that order; docs/recipes.md lists every key, docs/hub.md says how to publish one.
Ctrl-C and SIGTERM save a checkpoint at the end of the step and leave."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, train, print what was reached.

    Returns:
        0, or 2 where an error of the project's own says what to mend; 130 after Ctrl-C.
    """
    options = _parser().parse_intermixed_args(arguments)
    try:
        if options.offline:
            go_offline()
        taken = take(options.recipe, options.overrides)
        if os.environ.get("RANK", "0") == "0":  # set by launchers; there is no Accelerator yet
            print(f"Recipe: {taken}", flush=True)
        result = train_taken(taken, resume=options.resume)
        if os.environ.get("RANK", "0") == "0":
            print(describe(result), flush=True)
    except IrnetError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. Go on with --resume.", file=sys.stderr, flush=True)
        return 130
    finally:
        if PartialState._shared_state:
            PartialState().destroy_process_group()
    return 0


def describe(result: Result) -> str:
    """A run's result in a few lines, for people."""
    lines = []
    for key, title in (("teacher", "teacher"), ("before", "as converted"), ("after", "trained")):
        if key in result.metrics:
            top1, top5, count = (result.metrics[key][name] for name in ("top1", "top5", "count"))
            lines.append(f"  {title:<13} top-1 {top1:6.2f} %   top-5 {top5:6.2f} %   ({count} images)")
    return "\n".join([f"Trained {result.epochs} epochs, {result.steps} steps: {result.run_dir}", *lines])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m irnet_convert.train",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a bundled recipe's name, a YAML file, or org/name[@revision]",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="set a recipe's key, as in optimizer.lr=1e-3"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the run's newest whole checkpoint")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="take what lies on the Hub from the cache",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
