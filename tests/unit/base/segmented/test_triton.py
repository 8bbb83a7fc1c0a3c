"""Each Triton kernel against exact arithmetic, with NaN in all that it must not read.

Without a GPU the kernels run too, by Triton's interpreter, slowly: `TRITON_INTERPRET=1`. It has no
bf16, so numbers are fp16 there.
"""

import os
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not torch.cuda.is_available() and not INTERPRETED:
    pytest.skip("no CUDA device", allow_module_level=True)

from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from service.base.segmented import products, products_triton  # noqa: E402
from service.base.segmented.fused import Fused  # noqa: E402
from service.base.segmented.kernels.gate import SiluGate  # noqa: E402
from service.base.segmented.kernels.loss import compare  # noqa: E402
from service.base.segmented.kernels.norm import RMSNorm  # noqa: E402
from service.base.segmented.layout import Part  # noqa: E402
from service.base.segmented.optimizer import AdamW, SlotAdamW  # noqa: E402
from service.base.segmented.pool import Pool  # noqa: E402
from service.base.segmented.products import Looped, Present  # noqa: E402
from service.base.segmented.products_triton import Tiled, tiled, unused  # noqa: E402
from service.base.segmented.slots import Slots  # noqa: E402
from tests.unit.base.segmented.models import (  # noqa: E402
    ATTENTION,
    CONFIGS,
    OneSet,
    apart,
    forward_backward,
    make,
    random_ids,
    randomise,
    spec,
)

pytestmark = [pytest.mark.torch, pytest.mark.gpu]

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
DTYPE = torch.bfloat16 if CUDA else torch.float16
NEAR = 6e-3
"""Twice what rounding to bf16, there and back, is apart on the whole."""
SIZES = [[3, 70, 1, 130], [64, 64], [5], [1] * 9, [200, 17]]
SLOTS = (1, 2, 4, 5, 6, 8, 9, 11, 12)
CAPACITY = 14
NAN = float("nan")


@pytest.fixture(autouse=True)
def _many_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let long sums be shared out as a large GPU does."""
    monkeypatch.setattr(products_triton, "_processors", lambda _: 132)


class Case:
    """Numbers for one layer; slots and rows that are not in the batch hold NaN."""

    def __init__(self, sizes: list[int], k: int, rank: int, held: torch.dtype) -> None:
        self.sizes, self.slots = sizes, SLOTS[: len(sizes)]
        self.rows = sum(sizes)
        self._random = torch.Generator().manual_seed(len(sizes) + k + rank)
        self.x, self.y, self.thin = self.draw(k), self.draw(k + 32), self.draw(rank)
        self.scaling = (torch.rand(self.rows, 1, generator=self._random) + 0.5).to(DEVICE)
        # As a pool has it: A and B lie in each slot's row, with other layers around them.
        numbers = torch.full((CAPACITY, 24 + rank * (2 * k + 32) + 40), NAN, dtype=held)
        numbers[list(self.slots), 24:-40] = torch.randn(
            len(sizes), numbers.shape[1] - 64, generator=self._random
        ).to(held)
        self.pool = numbers.to(DEVICE)
        self.a = self.pool[:, 24 : 24 + k * rank].view(CAPACITY, k, rank)
        self.b = self.pool[:, 24 + k * rank : -40].view(CAPACITY, rank, k + 32)
        self.ours = tiled(sizes, self.slots, DEVICE)
        self.exact = Looped(sizes, Present(self.slots, torch.device("cpu")))

    def draw(self, width: int) -> Tensor:
        """Draw rows, as a part of a larger tensor of NaN."""
        drawn = torch.full((self.rows + 70, width + 8), NAN, dtype=DTYPE)
        drawn[: self.rows, :width] = torch.randn(self.rows, width, generator=self._random)
        return drawn.to(DEVICE)[: self.rows, :width]


def wide(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().cpu().double() for tensor in tensors]


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0))


@pytest.fixture(
    params=[
        (sizes, k, rank, held)
        for sizes in (SIZES if CUDA else SIZES[:4])
        for k, rank in ((256, 16), (600, 8), (1024, 64), (96, 24), (128, 256))
        for held in (torch.float32, DTYPE)
        if CUDA or k != 1024 or len(sizes) != 4
    ],
    ids=lambda given: f"{len(given[0])}x{max(given[0])}-{given[1]}-{given[2]}-{given[3]}"[:-3],
)
def case(request: Any) -> Case:
    torch.full((2**22,), NAN, device=DEVICE)  # what a new tensor is likely to hold
    return Case(*request.param)


def test_times_is_exact_enough(case: Case) -> None:
    x, thin, y, a, b, scaling = wide(case.x, case.thin, case.y, case.a, case.b, case.scaling)
    ours, exact = case.ours, case.exact
    assert apart(ours.times(case.x, case.a).cpu(), exact.times(x, a)) < NEAR
    assert apart(ours.times(case.x, case.a, case.scaling).cpu(), exact.times(x, a, scaling)) < NEAR
    assert apart(ours.times(case.y, case.b.mT).cpu(), exact.times(y, b.mT)) < NEAR
    assert apart(ours.times(case.thin, case.b).cpu(), exact.times(thin, b)) < NEAR
    assert apart(ours.times(case.thin, case.a.mT).cpu(), exact.times(thin, a.mT)) < NEAR


def test_add_times_adds_in_place_and_touches_nothing_else(case: Case) -> None:
    around = torch.full((case.rows + 9, case.y.shape[1] + 8), NAN, dtype=DTYPE, device=DEVICE)
    out = around[: case.rows, : case.y.shape[1]]
    out.copy_(case.y)
    (exact,) = wide(out)
    case.ours.add_times(out, case.thin, case.b)
    case.exact.add_times(exact, *wide(case.thin, case.b))
    assert apart(out.cpu(), exact) < NEAR
    assert around[case.rows :].isnan().all()
    assert around[:, case.y.shape[1] :].isnan().all()


@pytest.mark.parametrize("keep", [True, False])
def test_add_through_is_both_products(case: Case, keep) -> None:
    out = case.draw(case.y.shape[1])
    (exact,) = wide(out)
    kept = case.ours.add_through(out, case.x, case.a, case.b, case.scaling, keep=keep)
    theirs = case.exact.add_through(exact, *wide(case.x, case.a, case.b, case.scaling))
    assert apart(out.cpu(), exact) < NEAR
    assert kept is None if not keep else apart(kept.cpu(), theirs) < NEAR


def test_outer_products_are_added_to_the_present_slots_alone(case: Case) -> None:
    present = list(case.slots)
    for x, y in ((case.x, case.thin), (case.thin, case.y)):
        shape = (CAPACITY, x.shape[1], y.shape[1])
        around = torch.full((CAPACITY, 8 + shape[1] * shape[2]), NAN, device=DEVICE)
        into = around[:, 8:].view(shape)
        into[present] = 1.0
        exact = torch.zeros(shape, dtype=torch.float64)
        before = around.clone()
        case.ours.add_outer(into, x, y)
        case.exact.add_outer(exact, *wide(x, y))
        assert apart(into[present].cpu() - 1, exact[present]) < NEAR / 6  # summed in fp32
        into[present] = 1.0
        assert same(around, before)


def test_products_in_fp32_are_exact_to_fp32() -> None:
    case = Case([3, 20, 1], 96, 16, torch.float32)
    x, thin = case.x.float(), case.thin.float()
    near = 1e-5
    assert apart(case.ours.times(x, case.a).cpu(), case.exact.times(*wide(x, case.a))) < near
    into = torch.zeros_like(case.a)
    exact = torch.zeros(into.shape, dtype=torch.float64)
    case.ours.add_outer(into, x, thin)
    case.exact.add_outer(exact, *wide(x, thin))
    assert apart(into.cpu(), exact) < near


def test_no_adapter_at_all_is_no_work() -> None:
    products = tiled([], [], DEVICE)
    out = torch.ones(0, 32, dtype=DTYPE, device=DEVICE)
    w = torch.full((2, 16, 32), NAN, device=DEVICE)
    products.add_times(out, out[:, :16], w)
    products.add_outer(w, out[:, :16], out)
    assert w.isnan().all()


def decoded(products: Tiled, case: Case, out: Tensor, scaling: Tensor) -> None:
    products.add_through(out, case.x, case.a, case.b, scaling, keep=False)


def check_decoded(case: Case, out: Tensor, before: Tensor, sizes: list[int], slots: Any) -> None:
    rows = sum(sizes)
    exact = Looped(sizes, Present(slots, torch.device("cpu")))
    x, expected, a, b, scaling = wide(case.x, before, case.a, case.b, case.scaling)
    exact.add_through(expected[:rows], x[:rows], a, b, scaling[:rows])
    assert torch.equal(out[rows:], before[rows:])
    assert not rows or apart(out[:rows].cpu(), expected[:rows]) < NEAR


@pytest.mark.parametrize(("k", "rank"), [(1024, 16), (4096, 8), (600, 64)])
def test_tiles_of_a_fixed_number_of_rows_can_be_put_anew(k, rank) -> None:
    case = Case([1] * 9, k, rank, DTYPE)
    products = unused(9, DEVICE)
    for sizes, slots in (([1, 1, 1], (2, 5, 9)), ([1] * 9, SLOTS), ([4, 3], (4, 12)), ([], ())):
        out = case.draw(k + 32).contiguous()
        before = out.clone()
        products.put(sizes, slots)
        decoded(products, case, out, case.scaling)
        check_decoded(case, out, before, sizes, slots)
    with pytest.raises(ValueError, match="10 tiles"):
        products.put([1] * 10, range(10))


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_a_graph_replays_with_other_tiles() -> None:
    case = Case([1] * 9, 4096, 16, DTYPE)
    products = unused(9, DEVICE)
    products.put([1] * 9, SLOTS)
    out = case.draw(4096 + 32).contiguous()
    before = out.clone()
    decoded(products, case, out, case.scaling)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        decoded(products, case, out, case.scaling)
    for sizes, slots in (([1, 2], (4, 9)), ([1] * 9, SLOTS), ([], ())):
        products.put(sizes, slots)
        out.copy_(before)
        graph.replay()
        check_decoded(case, out, before, sizes, slots)


WIDTHS = [(3, 5, 48), (1, 7, 128), (1, 5, 4, 64), (2, 4096), (1, 5000)]
GRADIENTS = [(DTYPE, NEAR), (torch.float32, 1e-6)]


@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize(("dtype", "near"), GRADIENTS)
def test_the_norm_and_its_gradient_are_exact_enough(shape, dtype, near) -> None:
    random = torch.Generator().manual_seed(0)
    x, gradient = (torch.randn(shape, generator=random).to(DEVICE, dtype) for _ in range(2))
    weight = torch.randn(shape[-1], generator=random).to(DEVICE, dtype)
    exact = x.cpu().double().requires_grad_()
    wanted = functional.rms_norm(exact, shape[-1:], weight.cpu().double(), 1e-5)
    wanted.backward(gradient.cpu().double())
    x.requires_grad_()
    out = RMSNorm.apply(x, weight, 1e-5)
    out.backward(gradient)
    assert apart(out.detach().cpu(), wanted.detach()) < near
    assert apart(x.grad.cpu(), exact.grad) < near


@pytest.mark.parametrize("shape", WIDTHS)
@pytest.mark.parametrize(("dtype", "near"), GRADIENTS)
def test_the_gate_and_its_gradients_are_exact_enough(shape, dtype, near) -> None:
    random = torch.Generator().manual_seed(0)
    drawn = [3 * torch.randn(shape, generator=random) for _ in range(3)]
    gate, up, gradient = (t.to(DEVICE, dtype) for t in drawn)
    exact = [t.cpu().double().requires_grad_() for t in (gate, up)]
    wanted = functional.silu(exact[0]) * exact[1]
    wanted.backward(gradient.cpu().double())
    ours = [gate.requires_grad_(), up.requires_grad_()]
    out = SiluGate.apply(*ours)
    # Strides that a caller's transpose leaves behind.
    out.backward(gradient.transpose(0, -1).contiguous().transpose(0, -1))
    assert apart(out.detach().cpu(), wanted.detach()) < near
    assert all(apart(a.grad.cpu(), b.grad) < near for a, b in zip(ours, exact, strict=True))


@pytest.mark.parametrize("words", [57, 4096, 9001])
@pytest.mark.parametrize("share", [True, False])
def test_rows_of_logits_are_compared_and_turned_into_gradients(words, share) -> None:
    random = torch.Generator().manual_seed(0)
    around = torch.full((6, words + 8), NAN)
    around[:5, :words] = 4 * torch.randn(5, words, generator=random)
    around[0, 3] = around[0, 5] = around[1, 9] = 30.0  # the first of the likeliest is it
    around[2, 1] = float("-inf")
    around = around.to(DEVICE, DTYPE)
    logits = around[:5, :words]
    targets = torch.tensor([3, 9, 7, words - 1, 0], device=DEVICE)
    (exact,) = wide(logits)
    before = around.clone()
    nll, correct = torch.full((6,), NAN, device=DEVICE), torch.zeros(5, dtype=bool, device=DEVICE)
    compare(logits, targets, nll[:5], correct, share=share)
    wanted = functional.cross_entropy(exact, targets.cpu(), reduction="none")
    assert apart(nll[:5].cpu(), wanted) < 1e-5
    assert torch.equal(correct.cpu(), exact.argmax(-1) == targets.cpu())
    assert nll[5].isnan()
    assert around[5].isnan().all()
    assert around[:, words:].isnan().all()
    if not share:
        assert same(around, before)
        return
    exact = exact.softmax(-1)
    exact[range(5), targets.cpu()] -= 1
    assert apart(logits.cpu(), exact) < NEAR


def hugging_face(architecture: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[architecture](
        vocab_size=99,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        **changes,
    )
    model = AutoModelForCausalLM.from_config(config).to(DEVICE, DTYPE).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def answered(model: Any) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    given = torch.randn(1, 11, 64, generator=random).to(DEVICE, DTYPE).requires_grad_()
    logits = model(inputs_embeds=given, use_cache=False).logits
    logits.float().logsumexp(-1).sum().backward()
    return logits.detach(), given.grad


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
def test_a_model_with_fused_parts_answers_and_learns_as_without(architecture) -> None:
    model = hugging_face(architecture)
    found = {name for name, module in model.named_modules() if "forward" in vars(module)}
    plain = answered(model)
    exact = answered(model.double())
    model.to(DTYPE)
    fused = Fused(model)
    norms = 9 if architecture == "qwen3" else 5
    assert len(fused.modules) == norms + 2
    ours = answered(model)
    for got, theirs, right in zip(ours, plain, exact, strict=True):
        assert apart(got, right) < 1.5 * apart(theirs, right) + 1e-3
    with torch.inference_mode():
        ids = torch.arange(9, device=DEVICE)[None]
        assert torch.isfinite(model(input_ids=ids, use_cache=False).logits).all()
    fused.remove()
    assert found == {name for name, module in model.named_modules() if "forward" in vars(module)}
    assert torch.equal(answered(model)[0], plain[0])


class OddRMSNorm(torch.nn.Module):
    """Looks like the others, and weighs as Gemma's does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(64))
        self.variance_epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, (64,), 1 + self.weight, self.variance_epsilon)


def test_what_computes_otherwise_is_left_alone() -> None:
    model = hugging_face("llama", hidden_act="gelu")
    model.model.norm = OddRMSNorm().to(DEVICE, DTYPE)
    fused = Fused(model)
    assert len(fused.modules) == 4
    assert "forward" not in vars(model.model.norm)
    assert not any("forward" in vars(layer.mlp) for layer in model.model.layers)


@pytest.mark.skipif(not CUDA, reason="no CUDA device")
def test_fused_parts_run_within_a_graph() -> None:
    model = hugging_face("qwen3")
    given = torch.randn(1, 5, 64, device=DEVICE, dtype=DTYPE)
    Fused(model)
    layer = model.model.layers[0]

    def run() -> Tensor:
        with torch.inference_mode():
            return layer.mlp(layer.input_layernorm(given))

    expected = run().clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    with torch.inference_mode():
        out.zero_()
    graph.replay()
    assert torch.equal(out, expected)


def learned(dropout: float, recompute: bool) -> list[Tensor]:
    """Give the logits and gradients of four slots of which two and the bare base have a part."""
    base = OneSet(make(dtype=torch.float32), capacity=4, rank=8, recompute=recompute)
    for seed, shape in enumerate((spec(3, dropout=dropout), spec(8, ATTENTION), spec(5), spec(8))):
        randomise(base, base.slots.allocate(shape, seed), seed)
    parts = [Part(0, (5, 30), dropout_seed=9), Part(3, (3, 4)), Part(None, (6,))]
    batch = base.batch(parts)
    logits, *_ = forward_backward(base, batch, random_ids(batch))
    return [logits, base.pool.gradients]


@pytest.mark.skipif(CUDA, reason="attention has no fp32 there; test_cuda.py does it in bf16")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_whole_pass_is_as_without_triton(dropout, recompute, monkeypatch) -> None:
    theirs = learned(dropout, recompute)
    monkeypatch.setattr(products, "choose", tiled)
    ours = learned(dropout, recompute)
    assert theirs[1].any(1).tolist() == ours[1].any(1).tolist() == [True, False, False, True]
    assert all(apart(a, b) < 1e-3 for a, b in zip(ours, theirs, strict=True))


SETTINGS = {
    0: AdamW(lr=1e-2, betas=(0.8, 0.95), weight_decay=0.1, clip=0.5, eps=1e-6),
    2: AdamW(lr=1e-3, weight_decay=0.0, clip=None),
    3: AdamW(lr=3e-3, clip=1e6),
}


def test_slots_step_at_once_as_torch_steps_them_one_by_one() -> None:
    def held(device: torch.device, dtype: torch.dtype) -> tuple[Pool, SlotAdamW]:
        pool = Pool({"a.q_proj": (256, 40)}, capacity=5, rank=8, device=device, dtype=dtype)
        return pool, SlotAdamW(Slots(pool))

    (mine, ours), (exact, theirs) = (
        held(DEVICE, torch.float32),
        held(torch.device("cpu"), torch.float64),
    )
    random = torch.Generator().manual_seed(0)
    mine.weights.copy_(torch.randn(mine.weights.shape, generator=random))
    exact.weights.copy_(mine.weights)
    start = exact.weights.clone()
    for step in range(6):
        given = torch.randn(exact.gradients.shape, generator=random)
        mine.gradients.copy_(given)
        exact.gradients.copy_(given)
        due = {slot: wanted for slot, wanted in SETTINGS.items() if step % (slot + 1) == 0}
        got, wanted = ours._step_at_once(due), theirs._step_each(due)
        assert got.keys() == wanted.keys()
        assert all(abs(float(got[s]) / float(wanted[s]) - 1) < 1e-5 for s in wanted)
        assert torch.equal(mine.gradients.cpu(), exact.gradients.float())
    assert torch.equal(mine.steps.cpu().double(), exact.steps.double())
    for slot in SETTINGS:
        assert (
            apart(mine.weights[slot].cpu() - start[slot], exact.weights[slot] - start[slot]) < 1e-4
        )
    for name in ("exp_avg", "exp_avg_sq"):
        assert apart(mine.buffer(name).cpu(), exact.buffer(name)) < 1e-6
    assert torch.equal(mine.weights[[1, 4]].cpu().double(), start[[1, 4]])
    assert ours._step_at_once({}) == {}
