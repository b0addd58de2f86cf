"""Every property of conversion, on a small instance of every family of timm and torchvision."""

from __future__ import annotations

import pytest
import torch

from irnet_convert.coverage.instance_check import check_instance
from irnet_convert.coverage.instances import BY_NAME, INSTANCES
from irnet_convert.coverage.memory import give_back
from irnet_convert.coverage.names import family_of, list_names

torch.set_num_threads(1)  # small work: more threads wait for each other

pytestmark = pytest.mark.filterwarnings("ignore")  # what the libraries say of their own models


@pytest.mark.parametrize("family", INSTANCES)
def test_family(family: str) -> None:
    """The list holds the property and the reason, for each way in which the family falls short."""
    assert list(check_instance(INSTANCES[family])) == []
    give_back()


def test_every_family_has_an_instance() -> None:
    """A module that a new timm or torchvision adds needs a row, and one that is gone has none."""
    families = {family_of(name) for name in list_names()}
    assert set(INSTANCES) == families
    assert len(BY_NAME) == len(INSTANCES)
    for family, instance in INSTANCES.items():
        assert family_of(instance.name) == family
