"""Saved models that somebody has prepared: each case is one idea of how to make loading them go wrong.

A case is a function that spoils a good directory. Where weights or configs are altered the hashes are made
right again, as whoever spoils a directory would: a hash finds damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import irnet_convert
from irnet_convert.networks import create_model
from irnet_convert.pretrained import save_pretrained
from irnet_convert.recipe import ModelSpec

WEIGHTS, INDEX, PACKED = "model.safetensors", "model.safetensors.index.json", "packed.safetensors"


class Saved:
    """A directory to spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    def write(self, config: Any) -> None:
        """Replace config.json by this data."""
        (self.folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))

    def set(self, *path: Any, to: Any) -> None:
        """Change one value of config.json."""
        config = self.config
        place = config
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to
        self.write(config)

    def architecture(self, name: str | None = None, **kwargs: Any) -> None:
        """Ask for another architecture, without a plan."""
        config = self.config
        config["architecture"] = {"name": name or config["architecture"]["name"], "kwargs": kwargs}
        config |= {"plan": None, "binary_layers": []}
        self.write(config)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file, and say so in config.json."""
        (self.folder / name).write_bytes(data)
        self.rehash(name)

    def rehash(self, name: str) -> None:
        data = (self.folder / name).read_bytes()
        self.set("files", name, to={"size": len(data), "sha256": hashlib.sha256(data).hexdigest()})

    def tensors(self, change: Callable[[dict[str, Tensor]], None]) -> None:
        """Change the weights."""
        found = {key: value.clone() for key, value in load_file(self.folder / WEIGHTS).items()}
        change(found)
        save_file(found, self.folder / WEIGHTS, {"format": "pt"})
        self.rehash(WEIGHTS)

    def header(self, header: Any, body: bytes = b"", length: int | None = None) -> None:
        """Replace the weights by a file with this header."""
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.replace(WEIGHTS, (len(text) if length is None else length).to_bytes(8, "little") + text + body)


def good_models(folder: Path) -> dict[str, Path]:
    """The directories that cases spoil: a binarized network, whole with a packed file, and in shards."""
    torch.manual_seed(0)
    spec = ModelSpec(name="timm/test_resnet", kwargs={"num_classes": 4})
    model = irnet_convert.binarize(create_model(spec), example_input=torch.zeros(1, 3, 64, 64))
    return {
        "whole": save_pretrained(model, folder / "whole", images={
            "input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}),
        "shards": save_pretrained(model, folder / "shards", max_shard_size="300KB", packed=False),
    }  # fmt: skip


def spoiled(good: Path, case: str, folder: Path) -> Path:
    """A copy of a good directory, spoiled by a case."""
    target = folder / case
    shutil.copytree(good, target)
    CASES[case](Saved(target))
    return target


def _plan(change: Callable[[dict[str, Any]], None]) -> Callable[[Saved], None]:
    def spoil(s: Saved) -> None:
        config = s.config
        change(config["plan"])
        s.write(config)

    return spoil


def _edit(**values: Any) -> Callable[[Saved], None]:
    return _plan(lambda plan: plan["edits"].append({**plan["edits"][0], **values}))


def _fifo(s: Saved, name: str) -> None:
    (s.folder / name).unlink()
    os.mkfifo(s.folder / name)


def _sparse(s: Saved) -> None:
    """Three gigabytes that take no room, with a header that accounts for all of them."""
    size = 3 << 30
    text = json.dumps({"head": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    with (s.folder / WEIGHTS).open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    s.set("files", WEIGHTS, to={"size": 8 + len(text) + size, "sha256": "0" * 64})


def _index(change: Callable[[dict[str, Any]], Any]) -> Callable[[Saved], None]:
    def spoil(s: Saved) -> None:
        data = json.loads((s.folder / INDEX).read_text())
        s.replace(INDEX, json.dumps(change(data) or data).encode())

    return spoil


def _moved(data: dict[str, Any], to: str) -> None:
    data["weight_map"][next(iter(data["weight_map"]))] = to


def _large_index(s: Saved) -> None:
    os.truncate(s.folder / INDEX, 3 << 30)
    s.set("files", INDEX, "size", to=3 << 30)


def _twice(s: Saved) -> None:
    first, second = sorted(s.folder.glob("model-*.safetensors"))[:2]
    shutil.copy(first, second)
    s.rehash(second.name)


def _renamed_shard(s: Saved, name: str) -> None:
    config = s.config
    last = max(n for n in config["files"] if n.startswith("model-"))
    config["files"][name] = config["files"].pop(last)
    s.write(config)


def _bomb(s: Saved) -> None:
    """Most objects in the fewest characters."""
    s.write('{"format": "irnet-convert model", "format_version": 1, "x": [' + "{}," * 650_000 + "{}]}")


def _many_layers(s: Saved) -> None:
    config = s.config
    one = config["plan"]["decisions"][0]
    config["plan"]["decisions"] = [{**one, "path": f"l{i}", "reason": ""} for i in range(8000)]
    s.write(config)


def _pops(s: Saved) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return os.mkdir, ("pickled",)

    s.replace(WEIGHTS, pickle.dumps(Runs()))


def _zeros(name: str, count: int) -> dict[str, Any]:
    return {f"{name}{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}


CASES: dict[str, Callable[[Saved], None]] = {
    # -- config.json as a text
    "empty": lambda s: s.write(""),
    "not_utf8": lambda s: (s.folder / "config.json").write_bytes(b"\xff\xfe" + b"{}" * 10),
    "nested_lists": lambda s: s.write("[" * 500_000),
    "nested_deeper_than_any_config": lambda s: s.set("metrics", to=json.loads('{"a":' * 40 + "1" + "}" * 40)),
    "most_objects_in_two_megabytes": _bomb,
    "larger_than_any_config": lambda s: os.truncate(s.folder / "config.json", 1 << 32),
    "a_key_twice": lambda s: s.write('{"format": "x", ' + json.dumps(s.config)[1:]),
    "nan": lambda s: s.set("metrics", to={"top1": float("nan")}),
    "infinity_by_exponent": lambda s: s.write(
        json.dumps(s.config).replace('"metrics": {', '"metrics": {"a": 1e999')
    ),
    "a_million_digits": lambda s: s.write(
        json.dumps(s.config).replace('"num_classes": 4', '"num_classes": 4' + "0" * 1_000_000)
    ),
    "a_list": lambda s: s.write("[1, 2, 3]"),
    "another_librarys_config": lambda s: s.write(
        {"architectures": ["BertModel"], "auto_map": {"AutoModel": "evil.Model"}}
    ),
    "code_to_trust": lambda s: s.set("auto_map", to={"AutoModel": "evil.Model"}),
    "a_version_of_the_future": lambda s: s.set("format_version", to=2),
    "a_version_that_is_true": lambda s: s.set("format_version", to=True),
    "a_fifo_as_config": lambda s: _fifo(s, "config.json"),
    "a_key_of_a_megabyte": lambda s: s.set("k" * 1_000_000, to=1),
    # -- the architecture
    "an_import_path": lambda s: s.architecture("os.system"),
    "another_repository": lambda s: s.architecture("timm/hf-hub:evil/repo"),
    "a_path_as_name": lambda s: s.architecture("timm/../../../etc/passwd"),
    "pretrained_weights": lambda s: s.architecture(pretrained=True),
    "a_checkpoint_to_read": lambda s: s.architecture(checkpoint_path="/etc/passwd"),
    "a_place_to_download_from": lambda s: s.architecture(pretrained_cfg={"url": "http://127.0.0.1:9/x.pth"}),
    "an_overlay_of_that_place": lambda s: s.architecture(pretrained_cfg_overlay={"file": "/etc/passwd"}),
    "torchvision_weights": lambda s: s.architecture("torchvision/resnet18", weights="DEFAULT"),
    "a_real_device": lambda s: s.architecture("timm/test_vit", device="cpu", embed_dim=60000),
    "width_of_a_billion": lambda s: s.architecture("timm/test_vit", embed_dim=10**9),
    "width_within_the_numbers": lambda s: s.architecture("timm/test_vit", embed_dim=65536, num_heads=1),
    "depth": lambda s: s.architecture("timm/test_vit", depth=65536),
    "repeats": lambda s: s.architecture("timm/resnet18", layers=[60000] * 4),
    "a_factor_of_the_width": lambda s: s.architecture("timm/test_efficientnet", round_chs_fn=60000.0),
    "a_ratio_of_the_width": lambda s: s.architecture("timm/test_vit", mlp_ratio=60000.0),
    "heads": lambda s: s.architecture("timm/test_vit", num_heads=65536),
    "patches_of_a_pixel": lambda s: s.architecture("timm/test_vit", img_size=60000, patch_size=1),
    "positions": lambda s: s.architecture("timm/test_vit", img_size=65536),
    "buffers_that_no_file_holds": lambda s: s.architecture(
        "timm/swin_tiny_patch4_window7_224", img_size=32768, window_size=512
    ),
    "tables_on_the_cpu": lambda s: s.architecture("torchvision/swin_t", window_size=[4096, 4096]),
    "classes": lambda s: s.architecture(num_classes=65536),
    "groups_of_nothing": lambda s: s.architecture("timm/resnet18", base_width=-5, cardinality=0),
    "arguments_without_end": lambda s: s.architecture(x=[list(range(300)) for _ in range(300)]),
    "a_string_without_end": lambda s: s.architecture(norm_layer="x" * 1_000_000),
    "dunder_arguments": lambda s: s.architecture(__class__="x", __dict__={"y": 1}),
    "names_for_functions": lambda s: s.architecture(norm_layer="os.system", act_layer="eval"),
    "a_layer_as_text": lambda s: s.architecture("torchvision/resnet18", norm_layer="os.system"),
    "quantized_engines": lambda s: s.architecture("torchvision/quantized_resnet18", quantize=True),
    "another_architecture": lambda s: s.architecture("timm/vit_giant_patch14_224"),
    "one_whose_widths_are_computed": lambda s: s.architecture("torchvision/regnet_y_128gf"),
    # -- the plan
    "a_layer_decided_twice": _plan(lambda p: p["decisions"].append(p["decisions"][-1])),
    "a_layer_that_is_none": _plan(lambda p: p["decisions"][1].update(path="__class__")),
    "a_layer_of_another_kind": _plan(lambda p: p["decisions"][1].update(kind="Linear")),
    "layers_without_end": _many_layers,
    "a_layer_with_seven_bits": _plan(lambda p: p["decisions"][1].update(act_bits=7)),
    "a_method_to_import": _plan(
        lambda p: [d.update(method="os.system") for d in p["decisions"] if d["method"]]
    ),
    "scales_that_no_file_holds": _plan(
        lambda p: [d.update(scale=True) for d in p["decisions"] if d["method"]]
    ),
    "an_edit_outside": _edit(owner="__init__.__globals__"),
    "an_edit_nowhere": _edit(ordinal=65536),
    "an_edit_to_import": _edit(rewrite="os", form="system"),
    "edits_without_end": _plan(
        lambda p: p.update(edits=[{**p["edits"][0], "ordinal": i} for i in range(20000)])
    ),
    "every_edit_twice": _plan(
        lambda p: p.update(
            edits=[*p["edits"], *({**e, "ordinal": 0, "target": e["target"] or "conv1"} for e in p["edits"])]
        )
    ),
    "an_example_of_a_terabyte": _plan(
        lambda p: p.update(
            example={"inputs": [{"shape": [65536] * 4, "dtype": "float32"}], "named": {}, "batch": 1}
        )
    ),
    "an_example_of_another_dtype": _plan(
        lambda p: p.update(example={"inputs": [{"shape": [1], "dtype": "hub"}], "named": {}, "batch": 1})
    ),
    "a_plan_of_the_future": _plan(lambda p: p.update(version=99)),
    "states_without_a_plan": lambda s: s.set("plan", to=None),
    "channels_without_end": _edit(rewrite="activation", form="function", ordinal=3, channels=65536),
    "states_of_no_layer": lambda s: s.set("binary_layers", 0, "layers", to=["__class__"]),
    "a_schedule_that_is_none": lambda s: s.set("binary_layers", 0, "t_min", to=1e300),
    "labels_without_end": lambda s: s.set("labels", to=[""] * 200_000),
    # -- files
    "a_file_outside": lambda s: s.set("files", "../../model.safetensors", to=s.config["files"][WEIGHTS]),
    "a_file_on_windows": lambda s: s.set("files", "C:\\model.safetensors", to=s.config["files"][WEIGHTS]),
    "a_file_with_a_nul": lambda s: s.set("files", "model.safetensors\0.txt", to=s.config["files"][WEIGHTS]),
    "no_files": lambda s: s.set("files", to={}),
    "a_pickle": _pops,
    "a_bin_beside": lambda s: s.set("files", to={"pytorch_model.bin": s.config["files"][WEIGHTS]}),
    "a_fifo_as_weights": lambda s: _fifo(s, WEIGHTS),
    "gigabytes_that_take_no_room": _sparse,
    "another_size": lambda s: s.set("files", WEIGHTS, "size", to=1),
    "another_hash": lambda s: s.set("files", WEIGHTS, "sha256", to="0" * 64),
    "a_header_longer_than_memory": lambda s: s.header(b"{}", length=2**63),
    "a_header_of_five_megabytes": lambda s: s.header(b"{" + b" " * (5 << 20) + b"}"),
    "a_header_that_is_nested": lambda s: s.header(b'{"a":' * 200_000),
    "forty_thousand_empty_tensors": lambda s: s.header(_zeros("t", 40_000)),
    "tensors_that_overlap": lambda s: s.header(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        bytes(12),
    ),
    "a_shape_that_overflows": lambda s: s.header(
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, bytes(4)
    ),
    "a_dtype_that_is_none": lambda s: s.header(
        {"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, bytes(1)
    ),
    "numbers_for_weights": lambda s: s.tensors(
        lambda t: t.update({k: v.to(torch.int8) for k, v in t.items() if v.is_floating_point()})
    ),
    "a_turned_weight": lambda s: s.tensors(lambda t: t.update({"fc.weight": t["fc.weight"].T.contiguous()})),
    "a_tensor_more": lambda s: s.tensors(lambda t: t.update({"__class__": torch.zeros(1)})),
    "a_tensor_less": lambda s: s.tensors(lambda t: t.__delitem__("fc.bias")),
}

SHARDS: dict[str, Callable[[Saved], None]] = {
    "a_shard_outside": _index(lambda d: _moved(d, "../../../etc/passwd")),
    "an_index_to_another_shard": _index(lambda d: _moved(d, "model-00002-of-00002.safetensors")),
    "an_index_of_less": _index(lambda d: {"weight_map": {}}),
    "an_index_that_is_a_list": _index(lambda d: [1]),
    "an_index_that_is_nested": lambda s: s.replace(INDEX, b"[" * 1_000_000),
    "an_index_of_gigabytes": _large_index,
    "a_tensor_in_two_shards": _twice,
    "a_shard_missing": lambda s: next(s.folder.glob("model-00002*")).unlink(),
    "a_shard_not_named": lambda s: _renamed_shard(s, "model-00009-of-00009.safetensors"),
    "no_index": lambda s: s.set("files", to={k: v for k, v in s.config["files"].items() if k != INDEX}),
    "both_kinds": lambda s: s.set("files", WEIGHTS, to=s.config["files"][INDEX]),
}
CASES |= SHARDS
