"""README and every page of docs/ run as written; pretrained weights come from a loopback host."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import ANY as ANY_NUMBER

import pytest
from loopback_hub import loopback_hub
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]


def python_of(page: str) -> str:
    """All Python blocks of a page in order, as one program."""
    return "\n".join(
        re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    )


@pytest.fixture(scope="module")
def weights_host(tmp_path_factory):
    import timm
    import torch

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    with loopback_hub({"timm/resnet18.a1_in1k/model.safetensors": path}) as endpoint:
        yield endpoint


def run(page: str, folder: Path, endpoint: str) -> str:
    """What a page's examples print."""
    script = folder / "example.py"
    script.write_text(python_of(page))
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:irnet_convert", str(script)],
        cwd=folder,
        env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", [p for p in PAGES[1:] if python_of(p)])
def test_examples_run(page, tmp_path, weights_host):
    run(page, tmp_path, weights_host)


def test_readme_runs_and_shows_what_it_promises(tmp_path, weights_host):
    squeezed = re.sub(r"\s+", " ", run("README.md", tmp_path, weights_host))
    assert "ResNet: 16 of 21 layers binarized" in squeezed
    for figure in (
        "11,689,512",
        "4.00 MiB",
        "137.79 M",
        "1.68 G",
        "44.59 MiB",
        "1.81 G",
        "163.99 M (11.1× fewer)",
    ):
        assert figure in squeezed
        assert figure in (ROOT / "README.md").read_text()


SESSIONS = [p for p in PAGES if ">>> " in (ROOT / p).read_text()]
MODULES = [p for p in sorted((ROOT / "irnet_convert").rglob("*.py")) if ">>> " in p.read_text()]


@pytest.mark.parametrize("page", SESSIONS)
def test_sessions_print_what_they_show(page):
    assert doctest.testfile(str(ROOT / page), module_relative=False) == (0, ANY_NUMBER)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_docstring_examples(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    assert doctest.testmod(importlib.import_module(name)) == (0, ANY_NUMBER)


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, "recipes/README.md"]:
        code = r"^    [^\n]*$|^```.*?^```$"
        prose = re.sub(code, "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
            if "://" not in target:
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
