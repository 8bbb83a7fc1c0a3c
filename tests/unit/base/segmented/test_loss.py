"""Chunked losses and their gradients are those of the whole logits."""

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from service.base.segmented.inject import UnfitBase  # noqa: E402
from service.base.segmented.loss import token_losses  # noqa: E402
from tests.unit.base.segmented.models import OneSet, apart, make  # noqa: E402

pytestmark = pytest.mark.torch


def given(dtype: torch.dtype, bias: bool):
    random = torch.Generator().manual_seed(1)
    hidden = torch.randn(13, 16, generator=random, dtype=torch.float64).to(dtype)
    head = torch.randn(57, 16, generator=random, dtype=torch.float64).to(dtype)
    extra = torch.randn(57, generator=random, dtype=torch.float64).to(dtype) if bias else None
    targets = torch.randint(0, 57, (13,), generator=random)
    weights = torch.rand(13, generator=random)
    return hidden.requires_grad_(), head, extra, targets, weights


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 5, 13, 100])
@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_loss_and_gradient_are_those_of_the_whole(dtype, near, chunk, bias) -> None:
    hidden, head, extra, targets, weights = given(dtype, bias)
    exact = hidden.detach().double().requires_grad_()
    logits = functional.linear(exact, head.double(), extra if extra is None else extra.double())
    nll = functional.cross_entropy(logits, targets, reduction="none")
    (3 * (nll * weights).sum()).backward()
    losses = token_losses(hidden, head, targets, weights, bias=extra, rows_at_once=chunk)
    (3 * losses.total).backward()
    assert apart(losses.nll, nll.detach()) < near
    assert apart(hidden.grad, exact.grad) < near
    assert not losses.nll.requires_grad
    if dtype is not torch.bfloat16:
        assert torch.equal(losses.correct, logits.argmax(-1) == targets)


def test_the_whole_logits_never_exist() -> None:
    rows, words, chunk = 64, 5000, 4
    hidden = torch.randn(rows, 8, requires_grad=True)
    head, targets = torch.randn(words, 8), torch.zeros(rows, dtype=torch.int64)
    largest = 0

    def look(tensor: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, tensor.numel())

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            torch.utils._pytree.tree_map_only(torch.Tensor, look, out)
            return out

    with Watch():
        token_losses(hidden, head, targets, torch.ones(rows), rows_at_once=chunk).total.backward()
    assert largest <= max(chunk * words, head.numel())


def test_evaluation_keeps_nothing_for_a_backward_pass() -> None:
    hidden, head, extra, targets, weights = given(torch.float32, bias=True)
    with torch.no_grad():
        losses = token_losses(hidden, head, targets, weights, bias=extra)
    assert not losses.total.requires_grad


def capped(forward):
    def run(**given):
        out = forward(**given)
        out.logits = 30 * torch.tanh(out.logits / 30)
        return out

    return run


def test_a_model_that_alters_its_logits_is_refused(monkeypatch) -> None:
    model = make()
    monkeypatch.setattr(model, "forward", capped(model.forward))
    with pytest.raises(UnfitBase, match="plain projection"):
        OneSet(model, capacity=1, rank=8)


def test_a_head_that_is_no_plain_linear_is_refused() -> None:
    model = make()
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(UnfitBase, match="head"):
        OneSet(model, capacity=1, rank=8)
