"""The wheel, as somebody gets it who has no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(folder)


def build(folder: Path, **environment: str) -> Path:
    """A wheel of this checkout, built by the tools that are installed, in a build directory of its own."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir",
         str(folder), f"--config-settings=build-dir={folder / 'build'}"],
        check=True, capture_output=True, timeout=300, env=os.environ | environment,
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


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_wheel_holds_the_kernels_for_any_python(wheel):
    assert "-py3-none-" in wheel.name
    assert "irnet_convert/packed/irnet_native.so" in zipfile.ZipFile(wheel).namelist()


def test_without_a_compiler_the_wheel_is_pure(tmp_path):
    wheel = build(tmp_path, CXX="/nonexistent/c++")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith(".so")]


def test_recipes_are_found_outside_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from irnet_convert.recipe import Recipe, find_recipe as f; print(f('digits')); Recipe.load('digits')"
    )
    paths = [str(tmp_path / "site"), sysconfig.get_path("purelib")]
    done = subprocess.run(
        # -S: an editable installation of this checkout puts itself before every path.
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": os.pathsep.join(paths), "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "site" / "irnet_convert" / "_recipes" / "digits.yaml") in done.stdout
