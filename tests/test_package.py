"""The wheel, as somebody gets it who has no checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_holds_the_package_and_every_recipe(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {p.name for p in (ROOT / "recipes").glob("*.yaml")}
    assert {f"irnet_convert/_recipes/{name}" for name in recipes} <= names
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "irnet_convert").rglob("*.py")}
    assert sources <= names
    assert not [n for n in names if n.startswith(("tests/", "runs/"))]


def test_recipes_are_found_outside_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from irnet_convert.recipe import Recipe, find_recipe as f; print(f('digits')); Recipe.load('digits')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site" / "irnet_convert" / "_recipes" / "digits.yaml") in done.stdout
