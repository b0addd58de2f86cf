"""Who may import whom, what is public, and how large files may get: read from the sources."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import irnet_convert

PACKAGE = Path(irnet_convert.__file__).parent

#: Room → the rooms that it may import from, itself and "errors" aside. Deeper rooms come first.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "durable": set(),
    "plain_json": set(),
    "plain_yaml": set(),
    "weights": set(),
    "native": set(),
    "patterns": set(),
    "extras": set(),
    "hub": {"durable"},
    "binary": {"native"},
    "layers": {"binary"},
    "policy": {"binary", "plain_yaml", "patterns"},
    "graph": {"binary", "layers", "policy"},
    "callbacks": {"layers", "extras"},
    "convert": {"graph", "layers", "policy"},
    "report": {"graph", "layers"},
    "networks": {"weights", "recipe"},
    "recipe": {"binary", "policy", "plain_yaml", "graph.rewrites", "hub", "durable"},
    "data": {"recipe"},
    "packed": {"binary", "durable", "extras", "graph.example", "layers", "native", "plain_json"},
    "train": {"binary", "native", "layers", "convert", "networks", "recipe", "data", "report", "graph.plan",
              "graph.replay", "durable", "extras", "plain_yaml", "policy", "weights", "hub", "pretrained"},
    "pretrained": {"layers", "graph", "convert", "report", "networks", "recipe", "packed",
                   "durable", "plain_json", "plain_yaml", "weights", "hub"},
    "cost": {"native", "layers", "convert", "networks", "data", "recipe"},
    "coverage": {"layers", "policy", "graph", "convert", "report", "networks", "recipe.inputs"},
    "cli": {"binary", "layers", "policy", "graph", "convert", "report", "networks", "recipe", "data", "train",
            "packed", "plain_yaml", "weights", "coverage", "cost", "hub", "pretrained"},
}  # fmt: skip

PUBLIC = {
    "BinaryConv2d", "BinaryLinear", "Decision", "Plan", "Policy", "Recipe", "Rule", "Summary", "binarize",
    "export_onnx", "export_openvino", "finetune", "is_binarized", "load", "load_packed", "pack",
    "param_groups", "plan", "plan_of", "save_packed", "set_progress", "summarize", "to_dense", "IrnetError",
    "__version__", "from_pretrained", "push_to_hub", "save_pretrained",
}  # fmt: skip


def sources() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "_recipes" not in p.parts)


def module_of(path: Path) -> str:
    """``graph/plan.py`` → ``graph.plan``; a package is its own name."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Modules of this package that a source imports, anywhere in it, without the package's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide where things come from"
            names = [f"{node.module}.{a.name}" for a in node.names]
        else:
            continue
        yield from (n.removeprefix("irnet_convert.") for n in names if n.startswith("irnet_convert."))


def violations(module: str, source: str) -> list[str]:
    """Imports of ``source``, the text of ``module``, that go against the one way."""
    room = module.split(".")[0]
    allowed = MAY_IMPORT[room] | {room, "errors", "__version__"}
    return [
        f"{module} imports {name}"
        for name in imports_of(ast.parse(source))
        if not any(name == a or name.startswith(a + ".") for a in allowed)
    ]


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_run_one_way(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert list(imports_of(ast.parse(path.read_text()))) == []
        return
    assert violations(module_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("binary.sign", "from irnet_convert.layers import BinaryConv2d"),
        ("layers.base", "import irnet_convert.graph.record"),
        ("policy", "from irnet_convert.graph.survey import Survey"),
        ("graph.flow", "def late():\n    from irnet_convert.convert import binarize"),
        ("graph.flow", "from irnet_convert import convert"),
        ("recipe.schema", "from irnet_convert.train import finetune"),
        ("train.loop", "from irnet_convert.graph.rewrites import REWRITES"),
        ("data.loaders", "from irnet_convert.convert import binarize"),
    ],
)
def test_a_violation_would_be_noticed(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


def test_the_hub_alone_imports_its_client() -> None:
    rooms = {
        module_of(path).split(".")[0]
        for path in sources()
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import huggingface_hub", "from huggingface_hub"))
    }
    assert rooms == {"hub"}


def test_every_room_is_known() -> None:
    assert {
        module_of(p).split(".")[0] for p in sources() if p.parent != PACKAGE or p.stem != "__init__"
    } <= set(MAY_IMPORT)


def test_public_names() -> None:
    assert set(irnet_convert.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(irnet_convert, name).__doc__ or name == "__version__"
    assert set(dir(irnet_convert)) >= PUBLIC
    with pytest.raises(AttributeError, match="nonsense"):
        irnet_convert.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import irnet_convert", {"torch", "timm", "torchvision", "datasets", "accelerate", "pydantic"}),
        (
            "from irnet_convert import BinaryConv2d",
            {"timm", "torchvision", "datasets", "accelerate", "pydantic"},
        ),
    ],
)
def test_importing_is_cheap(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(*{absent!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_public_things_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    for holder in (
        tree,
        *(n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")),
    ):
        for node in holder.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                overrides = isinstance(holder, ast.ClassDef) and node.name in ("forward", "extra_repr")
                assert ast.get_docstring(node) or overrides, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_files_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
            assert (node.end_lineno or 0) - first.lineno < 60, f"{path.name}: {node.name} is too long"
