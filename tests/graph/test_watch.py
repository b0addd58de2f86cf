"""Who is told of module calls, and that nothing of it stays."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from irnet_convert.graph.watch import module_calls_told, module_calls_watched

X = torch.ones(1, 2)


def test_calls_are_told_by_this_thread_alone() -> None:
    told: list[nn.Module] = []

    def tell(call: Any, module: nn.Module, args: Any, kwargs: Any) -> Tensor:
        told.append(module)
        return call(module, *args, **kwargs)

    here, inner, elsewhere = nn.Identity(), nn.Identity(), nn.Identity()
    with module_calls_told(tell):
        here(X)
        thread = threading.Thread(target=lambda: elsewhere(X))
        thread.start()
        thread.join()
        with module_calls_told(lambda call, module, args, kwargs: 2 * args[0]):
            assert torch.equal(inner(X), 2 * X)
        here(X)
    here(X)
    assert told == [here, here]


def test_the_call_is_put_back_once_nobody_watches() -> None:
    before = nn.Module.__call__
    with module_calls_watched():
        watched = nn.Module.__call__
        assert watched is not before
        with pytest.raises(ZeroDivisionError), module_calls_told(lambda *_: 1 // 0):
            nn.Identity()(X)
        assert nn.Module.__call__ is watched
        assert torch.equal(nn.Identity()(X), X)
    assert nn.Module.__call__ is before
