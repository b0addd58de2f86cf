"""Rows, the CSV, the page, and the command."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from broken_models import EXAMPLE, Net
from typer.testing import CliRunner

from irnet_convert import cli
from irnet_convert.coverage.instances import BY_NAME, longest_first
from irnet_convert.coverage.memory import conversion_peak
from irnet_convert.coverage.names import build, family_of, list_names
from irnet_convert.coverage.page import page
from irnet_convert.coverage.rows import Problem, Row, append_rows, read_rows
from irnet_convert.coverage.share import UNHELD, interior_share, kind_of
from irnet_convert.errors import ArgumentError, UnknownNameError
from irnet_convert.graph.survey import survey

ROWS = [
    Row(name="timm/a", family="timm/x", checked=[1, 2, 3, 4, 5], layers=10, binarized=8, interior_macs=1000,
        binary_macs=900, rest={"no rule matches": 100}, binarize_s=2.0, reference_s=1.0, seconds=3.0),
    Row(name="torchvision/b", family="torchvision/y", checked=[1], interior_macs=1000, binary_macs=100,
        rest={"a | b": 900}, binarize_s=6.0, reference_s=1.0, by_value=True, inplace_extra=0.25,
        problems=[Problem(property=2, reason="the | bar")]),
]  # fmt: skip


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    append_rows(file, ROWS[:1])
    append_rows(file, ROWS[1:])
    found = read_rows(file)
    assert [r.to_csv() for r in found] == [r.to_csv() for r in ROWS]
    assert found[1].problems == ROWS[1].problems
    assert found[0].cost == 2.0
    assert math.isnan(found[0].inplace_extra)


def test_a_line_cut_off_by_an_interruption_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    append_rows(file, ROWS)
    text = file.read_text()
    file.write_text(text[: text.rindex("900")])
    assert [r.name for r in read_rows(file)] == ["timm/a"]
    file.write_text("name,family\nx,y\nz,w\n")
    with pytest.raises(ArgumentError, match="is no row of a coverage run"):
        read_rows(file)


def test_a_problem_is_noted_once() -> None:
    row = Row(name="a")
    row.falls_short(1, "why\n not")
    row.falls_short(1, "why not")
    assert row.problems == [Problem(property=1, reason="why not")]


def test_the_page_says_what_was_found() -> None:
    text = page(ROWS, seconds=90, jobs=2, command="irnet-convert coverage")
    assert f"torch {torch.__version__.split('+')[0]}" in text
    assert "| timm | 1 | 1 | 0 | 10 | 8 |" in text
    assert "| 2 | first and last layers are right by data flow | 1 | 1 | 0 |" in text
    assert "| torchvision/b | 2 | the \\| bar |" in text
    assert "**50.00 %**" in text
    assert "| a \\| b | 0.00 | 45.00 % | 1 |" in text
    assert "| torchvision/b | 10.0 % | a \\| b |" in text
    assert "| 4.0 | 6.0 | 6.0 (torchvision/b) | 1 |" in text
    assert "0.250 (torchvision/b)" in text
    assert "| torchvision/y | torchvision/b | falls short |" in text
    assert "## Share" not in page([Row(name="timm/a")], seconds=1, jobs=1, command="c")


def test_equal_shares_stand_in_the_order_of_their_names() -> None:
    rows = [Row(name=f"timm/{n}", interior_macs=10, binary_macs=5, rest={"why": 5}) for n in "ba"]
    text = page(rows, seconds=1, jobs=1, command="c")
    assert text.index("| timm/a | 50.0 % |") < text.index("| timm/b | 50.0 % |")


def test_a_reason_is_one_line_wherever_it_holds() -> None:
    rest = {"padded in blocks.0, so": 3, "padded in blocks.1, so": 2}
    rows = [Row(name=f"timm/{n}", interior_macs=10, binary_macs=5, rest=rest) for n in "ab"]
    assert "| padded in blocks.*, so | 0.00 | 50.00 % | 2 |" in page(rows, seconds=1, jobs=1, command="c")


def test_names() -> None:
    assert len(list_names("timm")) > 1000
    assert list_names(match="resnet18") == ["timm/resnet18", "torchvision/resnet18"]
    assert list_names(match="torchvision/vgg1[13]") == ["torchvision/vgg11", "torchvision/vgg13"]
    assert not any("cifar_resnet" in name for name in list_names())
    assert family_of("torchvision/fasterrcnn_resnet50_fpn") == "torchvision/detection.faster_rcnn"
    with pytest.raises(UnknownNameError, match="matches none"):
        list_names(match="nonsense*")
    with pytest.raises(UnknownNameError, match="timm"):
        list_names("tim")
    order = longest_first(["timm/resnet34", "timm/test_resnet", "torchvision/ssd300_vgg16"])
    assert order == ["torchvision/ssd300_vgg16", "timm/test_resnet", "timm/resnet34"]
    assert "timm/test_resnet" in BY_NAME


def test_share_of_the_interior() -> None:
    """Two convolutions of 8·8·9 weights on 8×8 places, one of them kept by being depthwise with fan-in 1."""
    net = Net()
    net.conv1 = torch.nn.Conv2d(8, 8, 1, groups=8)
    total, binary, rest = interior_share(survey(net, EXAMPLE))
    assert binary == 64 * 8 * 8 * 9 * 2  # an example of one's own has no batch size: both images count
    assert total - binary == 64 * 8 * 2
    assert list(rest.values()) == [64 * 8 * 2]


class Loose(torch.nn.Module):
    """Weights of 6×8 that no layer holds, applied in so many ways to five places of two samples."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.weight, self.how = torch.nn.Parameter(torch.ones(6, 8)), how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        return {
            "linear": lambda: torch.nn.functional.linear(x, weight),
            "matmul": lambda: x @ weight.t(),
            "einsum": lambda: torch.einsum("...c,oc->...o", x, weight),
            "einsum, all named": lambda: torch.einsum("nlc,oc->nlo", x, weight),
            "conv1d": lambda: torch.nn.functional.conv1d(x.mT, weight[..., None]).mT,
        }[self.how]()


@pytest.mark.parametrize("how", ["linear", "matmul", "einsum", "einsum, all named", "conv1d"])
def test_weights_that_no_layer_holds_are_part_of_the_whole(how: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8), Loose(how), torch.nn.Linear(6, 6))
    total, binary, rest = interior_share(survey(net, torch.zeros(2, 5, 8)))
    assert binary == 2 * 5 * 8 * 8
    assert rest == {UNHELD: 2 * 5 * 6 * 8}
    assert total == binary + 2 * 5 * 6 * 8


class Projected(torch.nn.Module):
    def __init__(self, **widths: int) -> None:
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(8, 2, batch_first=True, **widths)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        other = x[..., : self.attn.kdim]
        return self.attn(x, other, other)[0]


@pytest.mark.parametrize("width", [8, 4])
def test_an_attention_s_projections_are_counted(width: int) -> None:
    net = torch.nn.Sequential(
        torch.nn.Linear(8, 8), Projected(kdim=width, vdim=width), torch.nn.Linear(8, 8)
    ).eval()
    total, binary, _ = interior_share(survey(net, torch.zeros(1, 5, 8)))
    inputs = 5 * 8 * (8 + 2 * width)
    assert total == inputs + 5 * 64
    assert binary == 5 * 64 + (inputs if width == 8 else 0)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("its input cannot be negative (relu in layer1.0), so its sign would be constant",
         "its input cannot be negative, so its sign would be constant"),
        ("its weight is read by linear in blocks.0.attn while its own forward is never called",
         "its weight is read by another module while its own forward is never called"),
        ("its weight is also the weight of layer2.conv", "its weight is also the weight of another layer"),
        ("depthwise", "depthwise"),
    ],
)  # fmt: skip
def test_reasons_are_summed_without_names(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


def test_parameters_are_never_held_twice() -> None:
    """A conversion in place makes less than a tenth of the parameters' bytes; a copy makes them all."""
    # AlexNet's largest layers have no normalisation after them: their scale is computed from their weights.
    for name in ("timm/resnet18", "torchvision/mobilenet_v2", "torchvision/alexnet"):
        example = torch.ones(1, 3, 64, 64)
        made, own = conversion_peak(build(name, meta=False), example)
        assert made < 0.1 * own
        made, own = conversion_peak(build(name, meta=False), example, inplace=False)
        assert made >= own


@pytest.mark.parametrize("name", ["torchvision/resnet18", "torchvision/regnet_y_400mf"])
def test_large_networks_are_built_without_memory(name: str) -> None:
    """RegNet's constructor reads values of tensors, which none on the meta device has."""
    net = build(name)
    assert all(tensor.is_meta for tensor in net.state_dict().values())
    assert not net.training


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["coverage", *arguments], catch_exceptions=False)
    return done.exit_code, done.output


def test_the_command_writes_rows_and_a_page_and_goes_on(tmp_path: Path) -> None:
    report = tmp_path / "found.md"
    code, text = run("--match", "test_vit", "--jobs", "1", "--report", str(report))
    assert code == 0, text
    assert "1 of 1 names whole" in text
    rows = read_rows(tmp_path / "found.csv")
    assert [(r.name, r.problems) for r in rows] == [("timm/test_vit", [])]
    assert "| timm | 1 | 1 | 0 |" in report.read_text()
    rows[0].falls_short(3, "as if")
    append_rows(tmp_path / "found.csv", rows)
    code, text = run("--match", "test_vit", "--jobs", "1", "--report", str(report), "--resume")
    assert code == 1  # the row was taken over, not checked again
    assert "as if" in report.read_text()


def test_the_command_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"\.csv or \.md"):
        run("--match", "test_vit", "--report", str(tmp_path / "x.txt"))
    with pytest.raises(ArgumentError, match="there is no directory"):
        run("--match", "test_vit", "--report", str(tmp_path / "no" / "x.md"))
    with pytest.raises(ArgumentError, match="--resume without --report"):
        run("--match", "test_vit", "--resume")
