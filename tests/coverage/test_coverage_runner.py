"""Worker processes: a dead or a hanging one costs one name; a grown one is replaced."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
from check_doubles import check

from irnet_convert.coverage.runner import run_checks


def test_a_dead_and_a_hanging_worker_cost_one_name_each() -> None:
    names = ["a", "dies", "b", "hangs", "c", "short"]
    rows = {row.name: row for row in run_checks(names, check, jobs=2, time_limit=3)}
    assert set(rows) == set(names)
    assert {n: [p.reason for p in row.problems] for n, row in rows.items() if row.problems} == {
        "dies": ["the worker process died with exit code 7"],
        "hangs": ["not done after 3 s"],
        "short": ["it falls short"],
    }


def test_a_worker_is_kept_unless_it_grew() -> None:
    kept = {row.layers for row in run_checks(["a", "b", "c"], check, jobs=1)}
    assert len(kept) == 1
    replaced = {row.layers for row in run_checks(["a", "b"], check, jobs=1, recycle_above=1)}
    assert len(replaced) == 2


def test_the_parent_s_memory_is_not_the_worker_s() -> None:
    limit = 3 * 2**29
    ballast = np.ones(limit, np.uint8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > limit
    kept = {row.layers for row in run_checks(["a", "b"], check, jobs=1, recycle_above=limit)}
    assert len(kept) == 1
    del ballast


def test_leaving_early_ends_the_workers() -> None:
    rows = run_checks(["a", "hangs"], check, jobs=2)
    assert next(rows).name == "a"
    rows.close()  # would wait for the child if it were still alive


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
from check_doubles import check
from irnet_convert.coverage.runner import run_checks
if __name__ == "__main__":
    for row in run_checks(["a", "hangs"], check, jobs=2):
        print(row.name, flush=True)
"""
    script = [sys.executable, "-c", code, str(Path(__file__).parent)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "a\n"
        workers = [p for p in psutil.Process(parent.pid).children(recursive=True) if p.is_running()]
        assert workers
        parent.kill()
    gone, alive = psutil.wait_procs(workers, timeout=20)
    assert gone
    assert not alive
