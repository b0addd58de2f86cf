"""Trains the runs that docs/accuracy.yaml names, and writes what they reached into docs/accuracy.md.

    python docs/accuracy.py train DATA TEACHER.safetensors [--only 'own_*'] [--seed 0]
    python docs/accuracy.py write

``train`` takes the runs one after the other and goes on where an earlier call was stopped; on two CPU cores
twenty epochs are an hour and a half. ``write`` copies the logs of finished runs to docs/accuracy/ and makes
the page's tables of what lies there.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from irnet_convert.plain_yaml import load_yaml
from irnet_convert.recipe import Recipe
from irnet_convert.train.rundir import differing_keys

HERE = Path(__file__).parent
PAGE, LOGS, RUNS = HERE / "accuracy.md", HERE / "accuracy", Path("runs/accuracy")
#: Keys of a recipe that are no part of what its figures mean.
OWN = ("name", "description", "expect", "output", "processes", "shard", "tracking", "checkpoint", "seed")
#: What a log here leaves out: values for each layer, which a run of one's own shows.
PER_LAYER = ("flipped_layers", "saturated_layers", "saturated_inputs")


def listed() -> dict[str, list[dict[str, Any]]]:
    """The runs of each table."""
    return yaml.safe_load(HERE.joinpath("accuracy.yaml").read_text())


def train(data: str, teacher: str, only: str, seed: int, more: list[str]) -> None:
    """Train every listed run that matches and is not finished."""
    for run in (run for runs in listed().values() for run in runs if fnmatch.fnmatch(run["name"], only)):
        where = RUNS / f"{run['name']}-{seed}"
        if finished(where / "metrics.jsonl"):
            continue
        changes = [change.replace("TEACHER", teacher) for change in run["set"]]
        subprocess.run(
            [sys.executable, "-m", "irnet_convert.train", run["recipe"], *changes, *more,
             f"data.name={data}", f"seed={seed}", f"output={where}", "--resume"], check=True,
        )  # fmt: skip


def finished(metrics: Path) -> bool:
    """Whether a run's log goes to its end."""
    return metrics.is_file() and '"event": "final"' in metrics.read_text()


def keep_logs() -> None:
    """Copy the logs of finished runs: what was run and on what, then what was measured in each epoch."""
    for run in (run for runs in listed().values() for run in runs):
        for where in sorted(RUNS.glob(f"{run['name']}-*")):
            if finished(where / "metrics.jsonl"):
                check(run, where)
                events = [
                    json.loads(line) for line in where.joinpath("metrics.jsonl").read_text().splitlines()
                ]
                lines = [about(run, where), *({k: e[k] for k in e if k not in PER_LAYER} for e in events)]
                LOGS.joinpath(f"{where.name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def check(run: dict[str, Any], where: Path) -> None:
    """Refuse a log of something else than what is listed: a recipe or a list that has changed since."""
    differ = differing_keys(trained(where), resolved(Recipe.load(run["recipe"], run["set"]).to_dict()))
    if differ:
        raise SystemExit(f"{where} is not what is listed, train it anew: {'; '.join(differ)}")


def trained(where: Path) -> dict[str, Any]:
    """What a run was, every key of its recipe; keys that came later are what they are when left out."""
    return completed(load_yaml(where.joinpath("recipe.yaml").read_bytes(), source=str(where)))


def completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as a log or a run's directory has it, maybe of an earlier version, with all keys."""
    data = {"name": "of the run", **recipe["data"]}
    return resolved(Recipe.from_dict({**recipe, "name": "run", "data": data}).to_dict())


def resolved(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without where things lie on a machine, and without its seed and what it expects."""
    data = {key: value for key, value in recipe.items() if key not in OWN}
    data["data"] = {key: value for key, value in data["data"].items() if key not in ("name", "workers")}
    for block in ("model", "teacher"):
        if isinstance(data[block], dict) and data[block]["checkpoint"] is not None:
            data[block] = {**data[block], "checkpoint": "TEACHER"}
    return data


def about(run: dict[str, Any], where: Path) -> dict[str, Any]:
    """What can be said of a run without the paths of the machine that it ran on."""
    found = json.loads(where.joinpath("environment.json").read_text())
    states = [state["git"]["irnet_convert"] or {} for state in (*found.get("before", ()), found)]
    return {
        "name": run["name"], "recipe": trained(where), "seed": found["seed"],
        "commits": [{key: state.get(key) for key in ("commit", "changed")} for state in states],
        "versions": found["versions"], "device": found["device"], "processes": found["processes"],
        "threads": found["threads"],
        "data": {key: found["data"][key] for key in ("revision", "train", "eval")},
    }  # fmt: skip


def row(run: dict[str, Any], log: Path) -> str:
    """One line of a table."""
    said, *events = [json.loads(line) for line in log.read_text().splitlines()]
    epochs = [event for event in events if event["event"] == "epoch"]
    final = events[-1]
    top1, teacher = final["after"]["top1"], final.get("teacher")
    behind = f"{teacher['top1'] - top1:.2f}" if teacher else ""
    minutes = sum(event["seconds"] for event in epochs) / 60
    link = f"[{log.stem}](accuracy/{log.name})"
    named = [f"`{(c['commit'] or '')[:7]}`{'+' if c['changed'] else ''}" for c in said["commits"]]
    commits = ", ".join(dict.fromkeys(named))  # once, however often a run was stopped
    cells = [run["what"], len(epochs), said["seed"], f"{top1:.2f} %", behind, f"{minutes:.0f}"]
    return "| " + " | ".join(map(str, [*cells, commits, link])) + " |"


def tables() -> dict[str, str]:
    """Markdown of each table; a run that is not finished is left out."""
    header = "| | epochs | seed | top-1 | behind the teacher | minutes | commit | log |"
    found = {}
    for name, runs in listed().items():
        rows = [row(run, log) for run in runs for log in sorted(LOGS.glob(f"{run['name']}-*.jsonl"))]
        found[name] = "\n".join([header, "|---|" + "---:|" * 5 + "---|---|", *rows])
    return found


def written(page: str) -> str:
    """The page with its tables made anew."""
    for name, table in tables().items():
        begin, end = f"<!-- begin of {name}, which docs/accuracy.py writes -->", f"<!-- end of {name} -->"
        page = page.split(begin)[0] + begin + "\n\n" + table + "\n\n" + end + page.split(end)[1]
    return page


def main() -> None:
    """Train or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    training = verbs.add_parser("train", help="train what is not finished")
    training.add_argument("data", help="CIFAR-10: a directory or a name on the Hub")
    training.add_argument("teacher", help="weights of a trained cifar_resnet20, .safetensors")
    training.add_argument("--only", default="*", help="a pattern of names")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--set", action="append", default=[], help="an override for every run (workers)")
    verbs.add_parser("write", help="copy logs and write the page")
    given = parser.parse_args()
    if given.verb == "train":
        train(given.data, given.teacher, given.only, given.seed, given.set)
    else:
        keep_logs()
        PAGE.write_text(written(PAGE.read_text()))


if __name__ == "__main__":
    main()
