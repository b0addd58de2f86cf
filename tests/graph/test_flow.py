"""First, last and roles, by data flow: on networks small enough to know the answer."""

from __future__ import annotations

from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.graph.example import Example
from irnet_convert.graph.survey import Survey, survey

X = torch.zeros(1, 3, 16, 16)


def conv(inside: int = 4, out: int = 4, kernel: int = 3, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, padding=kernel // 2, **kwargs)


def look(model: nn.Module, example: Any = X) -> Survey:
    return survey(model, example)


def at(found: Survey, position: str) -> set[str]:
    return {p for p, info in found.infos.items() if position in info.positions}


def playing(found: Survey, role: str) -> set[str]:
    return {p for p, info in found.infos.items() if role in info.roles}


class Net(nn.Module):
    """Layers by keyword, and a forward that is given as a function of (self, *inputs)."""

    def __init__(self, run: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        return self.run(self, *args, **kwargs)


def test_chain() -> None:
    net = nn.Sequential(conv(3), nn.BatchNorm2d(4), nn.ReLU(), conv(), nn.Flatten(), nn.Linear(1024, 2))
    found = look(net)
    assert (at(found, "first"), at(found, "last")) == ({"0"}, {"5"})


def test_definition_order_does_not_matter() -> None:
    net = Net(lambda s, x: s.a(s.b(s.c(x))), a=conv(), b=conv(), c=conv(3))
    found = look(net)
    assert (at(found, "first"), at(found, "last")) == ({"c"}, {"a"})


def test_whatever_lies_between_does_not_count_as_a_layer() -> None:
    """Normalisation of the input, an activation, a learned factor, pooling, selection."""
    net = Net(
        lambda s, x: s.head(
            s.b(s.stem(F.gelu(s.norm(x)) * s.factor.weight[0, 0])).mean((2, 3))
        ).softmax(1)[:, :1],
        norm=nn.BatchNorm2d(3), factor=nn.Embedding(1, 1), stem=conv(3), b=conv(), head=nn.Linear(4, 4),
    )  # fmt: skip
    found = look(net)
    assert (at(found, "first"), at(found, "last")) == ({"stem"}, {"head"})


def test_several_stems_and_heads() -> None:
    net = Net(
        lambda s, x: (s.one(y := s.b(s.s1(x) + s.s2(x)).mean((2, 3))), {"two": [s.two(y)]}),
        s1=conv(3), s2=conv(3, kernel=1), b=conv(), one=nn.Linear(4, 2), two=nn.Linear(4, 3),
    )  # fmt: skip
    found = look(net)
    assert (at(found, "first"), at(found, "last")) == ({"s1", "s2"}, {"one", "two"})


def test_a_late_branch_from_the_input_is_a_first_layer_too() -> None:
    net = Net(lambda s, x: s.c(s.b(s.a(x)) + s.late(x)), a=conv(3), b=conv(), late=conv(3), c=conv())
    assert at(look(net), "first") == {"a", "late"}


def test_a_fixed_transform_of_the_image_is_no_layer() -> None:
    """CSATv2's stem: a cosine transform, whose matrix is a buffer. A learned matrix is a layer's."""
    for learned in (False, True):
        net = Net(lambda s, x: s.b(s.a(x @ s.matrix)), a=conv(3), b=conv())
        matrix = torch.eye(16)
        net.register_parameter("matrix", nn.Parameter(matrix)) if learned else net.register_buffer(
            "matrix", matrix
        )
        assert at(look(net), "first") == (set() if learned else {"a"})


def test_auxiliary_head_that_only_training_runs() -> None:
    def run(s: Net, x: Tensor) -> Any:
        y = s.b(s.a(x))
        out = s.head(y.mean((2, 3)))
        return (out, s.aux(y.mean((2, 3)))) if s.training else out

    found = look(Net(run, a=conv(3), b=conv(), head=nn.Linear(4, 2), aux=nn.Linear(4, 2)).eval())
    assert at(found, "last") == {"head", "aux"}


def test_a_head_that_finds_nothing_in_evaluation_is_last_by_training() -> None:
    """A detector without boxes in the example: its masks are made, and new zeros are returned."""

    def run(s: Net, x: Tensor, target: Tensor | None = None) -> Any:
        y = s.b(s.a(x))
        mask = s.mask(y)
        return mask.mean() if s.training else mask.new_zeros(x.shape[0], 1)

    found = look(Net(run, a=conv(3), b=conv(), mask=conv()).eval())
    assert at(found, "last") == {"mask"}


def test_a_target_that_training_alone_reads_makes_no_first_layer(monkeypatch: Any) -> None:
    def run(s: Net, x: Tensor, target: Tensor | None = None) -> Any:
        y = s.a(x)
        y = s.b(y if target is None else y + target)
        return (s.head(y), s.aux(y)) if s.training else s.head(y)

    net = Net(run, a=conv(3), b=conv(), head=conv(), aux=conv())
    target = torch.zeros(2, 4, 16, 16)
    monkeypatch.setattr(
        "irnet_convert.graph.survey.example_of",
        lambda model, given, training=False: Example(args=(X.expand(2, -1, -1, -1), *[target][:training])),
    )
    found = look(net.eval())
    assert len(found.records) == 2
    assert at(found, "first") == {"a"}


def test_headless_residual_network_has_one_last_layer() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        x = s.stem(x)
        x = F.relu(x + s.b(F.relu(s.a(x))))
        return F.relu(x + s.d(F.relu(s.c(x))))

    found = look(Net(run, stem=conv(3), a=conv(), b=conv(), c=conv(), d=conv()))
    assert at(found, "last") == {"d"}
    with torch.device("meta"):
        headless = timm.create_model("resnet18", num_classes=0, global_pool="")
        features = timm.create_model("resnet10t", features_only=True)
    assert at(look(headless), "last") == {"layer4.1.conv2"}
    # Both branches of the last block end the trunk, whichever is executed last.
    assert at(look(features), "last") == {"layer4.0.conv2", "layer4.0.downsample.1"}


def test_a_shared_layer_is_one_layer_with_all_its_paths() -> None:
    shared = conv()
    net = Net(lambda s, x: s.head(s.two(s.one(s.stem(x)))), stem=conv(3), one=shared, two=shared, head=conv())
    found = look(net)
    assert found.infos["one"].paths == ("one", "two")
    assert "two" not in found.infos
    assert len(found.records[0].calls["one"]) == 2
    assert (at(found, "first"), at(found, "last")) == ({"stem"}, {"head"})


def test_a_layer_called_first_and_later_is_first() -> None:
    net = Net(lambda s, x: s.head(s.a(s.a(x))), a=conv(3, 3), head=conv(3))
    assert at(look(net), "first") == {"a"}


def test_in_place_operators_and_views_keep_the_flow() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        y = torch.zeros(1, 4, 16, 16)
        y[:, :2] = s.a(x)[:, :2]
        y[:, 2:].add_(s.b(x)[:, 2:]).mul_(2)
        return s.c(y.relu_()).view(-1)

    found = look(Net(run, a=conv(3), b=conv(3), c=conv()))
    assert (at(found, "first"), at(found, "last")) == ({"a", "b"}, {"c"})
    assert not playing(found, "constant_fed")


def test_constant_fed() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        grid = torch.linspace(0, 1, 4).reshape(1, 4)
        return s.head(s.a(x) + s.table(grid).reshape(1, 4, 1, 1) + s.two(s.positions.weight).mean())

    found = look(
        Net(
            run,
            a=conv(3),
            table=nn.Linear(4, 4),
            positions=nn.Embedding(3, 4),
            two=nn.Linear(4, 4),
            head=conv(),
        )
    )
    assert playing(found, "constant_fed") == {"table", "two"}
    assert at(found, "first") == {"a"}


def test_zeros_like_the_input_are_constant() -> None:
    found = look(
        Net(lambda s, x: s.head(s.a(x) + s.bias(torch.ones_like(x))), a=conv(3), bias=conv(3), head=conv())
    )
    assert playing(found, "constant_fed") == {"bias"}


def test_a_bypassed_layer_is_known_with_its_reader() -> None:
    net = Net(
        lambda s, x: s.head(F.conv2d(s.a(x), s.bypassed.weight)),
        a=conv(3),
        bypassed=conv(kernel=1),
        head=conv(),
    )
    found = look(net)
    assert found.record_of("bypassed") is None
    assert found.read_elsewhere == {"bypassed": "conv2d in the model"}
    assert (at(found, "first"), at(found, "last")) == ({"a"}, {"head"})


def test_downsample_is_the_pointwise_skip_of_an_addition() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.down = conv(), conv(), conv(kernel=1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x))) + self.norm(self.down(F.avg_pool2d(x, 3, 1, 1)))

    found = look(nn.Sequential(conv(3), Block(), conv()))
    assert playing(found, "downsample") == {"1.down"}


def test_not_a_downsample() -> None:
    """A 3×3 skip; a linear bottleneck's projection; parallel branches; a 1×1 with another on its path."""
    three = Net(lambda s, x: s.out(s.b(s.a(x)) + s.skip(x)), a=conv(3), b=conv(), skip=conv(3), out=conv())
    assert playing(look(three), "downsample") == set()

    def bottlenecks(s: Net, x: Tensor) -> Tensor:
        x = s.project0(F.relu6(s.expand0(s.stem(x))))
        x = x + s.project1(F.relu6(s.expand1(x)))
        return s.out(x + s.project2(F.relu6(s.expand2(x))))

    layers = {f"{n}{i}": conv(kernel=1) for i in range(3) for n in ("expand", "project")}
    assert playing(look(Net(bottlenecks, stem=conv(3), out=conv(), **layers)), "downsample") == set()
    parallel = Net(
        lambda s, x: s.out(F.relu(s.three(y := s.stem(x)) + s.one(y))), stem=conv(3), three=conv(),
        one=conv(kernel=1), out=conv(),
    )  # fmt: skip
    assert playing(look(parallel), "downsample") == set()
    long = Net(
        lambda s, x: s.out(s.b(s.a(y := s.stem(x))) + s.two(s.one(y))), stem=conv(3), a=conv(), b=conv(),
        one=conv(kernel=1), two=conv(kernel=1), out=conv(),
    )  # fmt: skip
    assert playing(look(long), "downsample") == set()


def test_roles_in_real_networks() -> None:
    with torch.device("meta"):
        nets = {
            n: look(timm.create_model(n), None) for n in ("resnet18", "mobilenetv3_small_050", "repvgg_a0")
        }
    downs = {f"layer{i}.0.downsample.0" for i in (2, 3, 4)}
    assert playing(nets["resnet18"], "downsample") == downs
    mobile = nets["mobilenetv3_small_050"]
    layers = set(mobile.layers)
    assert playing(mobile, "squeeze_excite") == {p for p in layers if ".se." in p}
    assert playing(mobile, "depthwise") == {p for p in layers if p.endswith("conv_dw")}
    assert not playing(mobile, "downsample")
    assert not playing(nets["repvgg_a0"], "downsample")
    assert at(nets["repvgg_a0"], "first") == {"stem.conv_kxk.conv", "stem.conv_1x1.conv"}


def test_squeeze_excite_is_not_attention_and_not_a_classifier() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        x = s.stem(x)
        gate = s.up(F.relu(s.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return s.head((x * gate).mean((2, 3)))

    found = look(Net(run, stem=conv(3), down=conv(kernel=1), up=conv(kernel=1), head=nn.Linear(4, 2)))
    assert playing(found, "squeeze_excite") == {"down", "up"}

    def efficient(s: Net, x: Tensor) -> Tensor:  # the gate is expanded before the product
        x = s.stem(x)
        gate = s.conv(x.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1)
        return s.head((x * gate.expand_as(x)).mean((2, 3)))

    one = nn.Conv1d(1, 1, 3, padding=1)
    assert playing(look(Net(efficient, stem=conv(3), conv=one, head=nn.Linear(4, 2))), "squeeze_excite") == {
        "conv"
    }
    full = Net(lambda s, x: s.out(s.a(y := s.stem(x)) * s.b(y)), stem=conv(3), a=conv(), b=conv(), out=conv())
    assert playing(look(full), "squeeze_excite") == set()


def test_which_layers_lack_a_normalisation() -> None:
    def run(s: Net, x: Tensor) -> Tensor:
        y = s.norm(F.max_pool2d(s.normed(s.stem(x)), 2))
        y = s.both(y)
        return s.head(s.norm(y) + y)

    found = look(Net(run, stem=conv(3), normed=conv(), norm=nn.BatchNorm2d(4), both=conv(), head=conv()))
    assert found.needs_scale == {"stem", "both", "head"}
