"""Recipes from somebody who means harm, each by an idea of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fake_hub import FakeHub

BASE: dict[str, Any] = {
    "name": "evil",
    "model": {"name": "timm/cifar_resnet20"},
    "data": {"name": "builtin/synthetic"},
    "epochs": 1,
}
START = "name: evil\nmodel: {name: timm/cifar_resnet20}\ndata: {name: builtin/synthetic}\nepochs: 1\n"


def but(**keys: Any) -> str:
    """A recipe that would be good, but for these keys."""
    return yaml.safe_dump({**BASE, **keys}, sort_keys=False)


def model(name: str = "timm/vit_tiny_patch16_224", **kwargs: Any) -> str:
    return but(model={"name": name, "kwargs": kwargs})


def rule(**keys: Any) -> str:
    return but(policy=[{"action": "keep", **keys}, {"preset": "irnet"}])


def nested(depth: int) -> str:
    return START + "description: " + "[" * depth + "]" * depth


LAUGHS = (
    "a0: &a0 [" + "x," * 1900 + "]\n" + "".join(f"a{i}: &a{i} [*a{i - 1},*a{i - 1}]\n" for i in range(1, 11))
)
MERGES = (
    "a: &a {" + ",".join(f"k{i}: 1" for i in range(1900)) + "}\n"
    "b: &b {<<: [*a,*a,*a,*a,*a,*a]}\nc: &c {<<: [*b,*b,*b,*b,*b,*b,*b]}\nd: {<<: [*c,*c,*c,*c,*c,*c,*c]}\n"
)

#: Name → the file's content. What passes as a recipe has its policy tried on layers and its networks built.
FILES: dict[str, str | bytes | int] = {
    # --- YAML that would run something, or is something else than data
    "tag_that_calls": START + "description: !!python/object/apply:os.system [touch pwned]",
    "tag_that_names": START + "description: !!python/name:os.system",
    "tag_that_imports": START + "description: !!python/module:antigravity",
    "tag_under_another_name": "%TAG ! tag:yaml.org,2002:python/\n---\n"
    + START
    + "policy: !object/apply:os.getcwd []",
    "tag_of_bytes": START + "description: !!binary aGVsbG8=",
    "tag_of_a_set": START + "rewrites: !!set {activation}",
    "key_that_is_a_list": START + "? [a, b]\n: 1",
    "key_that_is_a_number": START + "1: 2",
    "key_given_twice": START + "epochs: 2",
    "two_documents": START + "---\n" + START,
    "not_utf_8": b"name: \xc3\x28",
    "utf_16_with_a_bomb": ("\ufeff" + LAUGHS).encode("utf-16-le"),
    "control_characters": START + 'description: "\x1b[2J\x00"',
    "nothing": b"",
    "only_a_number": "3",
    # --- YAML that takes time or memory
    "billion_laughs": START + LAUGHS,
    "aliases": START + "a: &a 1\nb: [" + "*a," * 300 + "]",
    "alias_inside_itself": START + "policy: &a [*a]",
    "merges": START + MERGES,
    "deep_flow": nested(5000),
    "deep_blocks": START + "".join(" " * i + "a:\n" for i in range(1, 600)),
    "questions": START + "? " * 40_000,
    "many_values": START + "rewrites: [" + "1," * 100_000 + "]",
    "many_keys": START + "".join(f"k{i}: 1\n" for i in range(3000)),
    "long_list": START + "rewrites: [" + "activation," * 5000 + "]",
    "long_string": START + "description: " + "x" * 200_000,
    "long_escapes": START + 'description: "' + "\\x41" * 50_000 + '"',
    "endless": 500 << 20,  # a sparse file of so many NULs
    "long_comment": "#" * 300_000 + "\n" + START,
    "empty_lines": START + "\n" * 250_000 + "x: 1",
    "digits": START + "seed: " + "9" * 200_000,
    "hex_digits": START + "seed: 0x" + "f" * 200_000,
    "exponent": START + "clip_grad: 1e999999999",
    "not_a_number": START + "clip_grad: .nan",
    # --- keys that ask for what nobody has
    "negative_size": but(transforms={"input_size": [3, -1, 32]}),
    "absurd_image": but(transforms={"input_size": [3, 10**6, 10**6]}),
    "absurd_batch": but(batch_size=10**30),
    "absurd_epochs": but(epochs=10**300),
    "absurd_seed": but(seed=2**32),
    "absurd_workers": but(data={"name": "builtin/synthetic", "workers": 10**6}),
    "absurd_classes": but(data={"name": "builtin/synthetic", "num_classes": 10**12}),
    "absurd_padding": but(transforms={"crop": {"padding": 10**9}}),
    "key_of_python": but(__class__="os.system"),
    "name_that_climbs": but(name="../../evil"),
    "name_of_lines": but(name="evil\nname: good"),
    "name_too_long": but(name="e" * 5000),
    "output_too_long": but(output="e" * 300),
    "output_with_nul": but(output="a\0b"),
    "data_with_nul": but(data={"name": "/a\0b"}),
    "optimizer_by_path": but(optimizer={"name": "os.system"}),
    "optimizer_not_a_number": but(optimizer={"lr": float("inf")}),
    "tracking_by_path": but(tracking=["os.system"]),
    "schedule_by_code": but(schedule={"name": "__import__('os')"}),
    "distilled_from_nobody": but(distill={"temperature": 1e-300}),
    # --- policies
    "regex_that_backtracks": rule(name=r"re:(a|aa)+$b?c", optional=True),
    "regex_slow_by_many_rules": but(
        policy=[{"action": "keep", "name": f"re:(a|aa)+$b?c{'d?' * i}", "optional": True} for i in range(100)]
    ),
    "regex_many": but(policy=[{"action": "keep", "name": f"re:({i}|a?)+{'b?' * 10}"} for i in range(1900)]),
    "regex_many_written_out": but(
        policy=[{"action": "keep", "name": f"re:{i}a{{999}}"} for i in range(200)],
    ),
    "regex_written_out": rule(name="re:a{4000000000}"),
    "regex_written_out_by_nesting": rule(name="re:(?:(?:a{1000}){1000}){1000}"),
    "regex_that_calls_itself": rule(name=r"re:(?R)?x|\w(?R)"),
    "regex_fuzzy": rule(name="re:(?b)(?:(a+b?)+){e<=30}x"),
    "regex_long": rule(name="re:" + "|".join("a" * i for i in range(100))),
    "regex_unfinished": rule(name="re:(?P<"),
    "glob_long": rule(name="*a" * 1000),
    "method_by_path": rule(method="os.system"),
    "preset_by_path": but(policy="../../etc/passwd"),
    "rule_with_code": rule(kind=["__import__('os')"]),
    "kernel_that_is_endless": rule(kernel_size=[10**9] * 1000 + ["x"]),
    # --- networks
    "architecture_by_path": model("timm/../../evil"),
    "architecture_of_the_hub": model("timm/hf-hub:evil/model"),
    "architecture_of_a_folder": model("timm/local-dir:/etc"),
    "architecture_by_url": model("timm/https://evil.example/x"),
    "architecture_of_python": model("torchvision/__builtins__"),
    "architecture_of_another": model("os/system"),
    "weights_by_kwargs": model(checkpoint_path="/etc/passwd"),
    "weights_by_config": model(pretrained_cfg={"url": "http://evil.example/x.pth"}),
    "weights_by_overlay": model(pretrained_cfg_overlay={"file": "evil.pth"}),
    "weights_twice": but(model={"name": "timm/x", "pretrained": True, "checkpoint": "x"}),
    "absurd_width": model(embed_dim=10**9),
    "absurd_depth": model(depth=10**9),
    "absurd_depth_in_a_string": model(depth="9" * 1000),
    "absurd_list": model("timm/resnet18", layers=[2] * 1999),
    "absurd_nesting": model(depth=[[[[[[[[[1]]]]]]]]]),
    "argument_of_python": model(norm_layer="__import__('os').system"),
    "argument_unknown": model(__class__="x"),
    # --- bases
    "extends_itself": but(extends="extends_itself.yaml"),
    "extends_a_root": but(extends="/etc/passwd.yaml"),
    "extends_upwards": but(extends="../../../etc/passwd.yaml"),
    "extends_by_a_drive": but(extends="C:\\x.yaml"),
    "extends_by_a_share": but(extends="\\\\evil\\share\\x.yaml"),
    "extends_a_list": but(extends=["digits"] * 100),
    "extends_a_device": but(extends="/dev/zero"),
    "extends_by_url": but(extends="http://evil.example/x.yaml"),
    "extends_the_hub_unpinned": but(extends="hf://org/good"),
    "extends_a_branch": but(extends="hf://org/good@main"),
    "extends_by_a_revision_that_climbs": but(extends="hf://org/good@..%2F..%2F..%2Fx"),
    "extends_a_space": but(extends="hf://spaces/org/good@v1"),
    "extends_a_name_that_is_endless": but(extends="hf://org/" + "x" * 9000 + "@v1"),
}


def _repo(**keys: Any) -> Callable[[FakeHub, str], None]:
    def fill(hub: FakeHub, name: str) -> None:
        hub.repo(name).commit({"recipe.yaml": but(**keys).encode()})

    return fill


def _endless(hub: FakeHub, name: str) -> None:
    repo = hub.repo(name)
    repo.commit({"recipe.yaml": START.encode()})
    repo.claims["recipe.yaml"] = 10**15


def _larger_than_said(hub: FakeHub, name: str) -> None:
    repo = hub.repo(name, lfs={"recipe.yaml"})
    repo.commit({"recipe.yaml": START.encode() + b"#" * (8 << 20)})
    repo.claims["recipe.yaml"] = 100


def _chain(hub: FakeHub, name: str) -> None:
    for number in range(6):
        base = {"extends": f"hf://{name}-{number - 1}@v1"} if number else BASE
        hub.repo(f"{name}-{number}").commit({"recipe.yaml": yaml.safe_dump(base).encode()}, tag="v1")
    hub.repo(name).commit({"recipe.yaml": but(extends=f"hf://{name}-5@v1").encode()})


def _cycle(hub: FakeHub, name: str) -> None:
    for one, other in (("", "-2"), ("-2", "")):
        files = {"recipe.yaml": but(extends=f"hf://{name}{other}@v1").encode()}
        hub.repo(f"{name}{one}").commit(files, tag="v1")


def _a_name_that_climbs(hub: FakeHub, name: str) -> None:
    hub.repo(name).commit(
        {"../../recipe.yaml": START.encode(), "recipe.yaml": but(extends="../../recipe.yaml").encode()}
    )


#: Name → what fills the repository ``evil/NAME``, which is then loaded by its name.
REPOS: dict[str, Callable[[FakeHub, str], None]] = {
    "hub-output-of-the-system": _repo(output="/etc/cron.d"),
    "hub-output-that-climbs": _repo(output="runs/../../../x"),
    "hub-output-of-windows": _repo(output="C:\\Users\\x"),
    "hub-checkpoint-of-a-share": _repo(
        model={"name": "timm/resnet18", "checkpoint": "\\\\evil\\share\\x.safetensors"}
    ),
    "hub-init-of-home": _repo(init="~/secret"),
    "hub-extends-local": _repo(extends="secret.yaml"),
    "hub-extends-root": _repo(extends="/etc/x.yaml"),
    "hub-endless": _endless,
    "hub-larger-than-said": _larger_than_said,
    "hub-chain": _chain,
    "hub-cycle": _cycle,
    "hub-name-that-climbs": _a_name_that_climbs,
}

#: What no name may do, handed to ``Recipe.load`` as it stands.
NAMES: dict[str, str] = {
    "name-of-a-device": "/dev/zero",
    "name-that-is-endless": "a" * 100_000,
    "name-with-nul": "a\0b/c",
    "name-that-climbs-by-revision": "hf://org/good@..%2F..%2F..%2Ftmp%2Fx",
    "name-that-climbs-by-file": "hf://org/good/../../x.yaml",
    "name-of-a-device-of-windows": "hf://org/good/CON.yaml",
    "name-of-another-host": "https://evil.example/org/good",
    "name-with-credentials": "hf://user:secret@evil.example/good",
}


def write_all(folder: Path, hub: FakeHub) -> dict[str, str]:
    """Case → what ``Recipe.load`` is given."""
    given = dict(NAMES)
    for case, content in FILES.items():
        path = folder / f"{case}.yaml"
        if isinstance(content, int):
            with path.open("wb") as file:
                file.truncate(content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        given[case] = str(path)
    hub.repo("org/good").commit({"recipe.yaml": START.encode()}, tag="v1")
    for case, fill in REPOS.items():
        fill(hub, f"evil/{case}")
        given[case] = f"evil/{case}"
    return given
