"""The dimensions of a base, and the bytes that follow from them. Pure: read off its config."""

from collections.abc import Collection, Mapping
from typing import Any

import msgspec

MULTIPLE = 8
"""Ranks are padded to a multiple of it (segmented/pool.py)."""
EXACT = 4
"""Bytes of a number in fp32."""


class UnknownShape(ValueError):
    """The config is not that of a dense decoder whose memory could be told beforehand."""


class ModelShape(msgspec.Struct, frozen=True):
    """A dense decoder as Llama, Mistral and Qwen are built.

    In all methods, `each` is the bytes of a number in the dtype that is computed in, and `fused`
    whether norms and gates are one kernel each (segmented/fused.py), that keeps only what it is
    given.
    """

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    tied_head: bool = False
    normed_heads: bool = False
    """Queries and keys are normalised, as in Qwen 3."""

    @property
    def queries(self) -> int:
        """Numbers of all heads' queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Numbers of all heads' keys of a token."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Give (in, out) features of a layer's linears, by the name that adapters target."""
        return {
            "q_proj": (self.hidden, self.queries),
            "k_proj": (self.hidden, self.keys),
            "v_proj": (self.hidden, self.keys),
            "o_proj": (self.queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Count the weights of all layers' linears."""
        return self.layers * sum(a * b for a, b in self.linears.values())

    @property
    def other_parameters(self) -> int:
        """Count embedding, head and norms, which are never quantised."""
        tables = (1 if self.tied_head else 2) * self.vocabulary * self.hidden
        heads = 2 * self.head_dim if self.normed_heads else 0
        return tables + self.hidden + self.layers * (2 * self.hidden + heads)

    def adapter_parameters(self, rank: int, targets: Collection[str]) -> int:
        """Count an adapter's numbers as a slot holds them."""
        each = [sum(features) for name, features in self.linears.items() if name in targets]
        return self.layers * padded(rank) * sum(each)

    def kv_bytes(self, each: int) -> int:
        """Tell what a token takes in the cache of keys and values."""
        return 2 * self.layers * self.keys * each

    def per_token(
        self,
        rank: int,
        targets: Collection[str],
        each: int,
        *,
        recomputes: bool,
        fused: bool,
    ) -> int:
        """Tell what a token of a training row takes at the most.

        With recomputation a layer keeps its input alone, until its own turn in the backward pass.
        """
        layer = self.kept(rank, targets, each, fused=fused)
        layers = self.layers * (self.hidden * each if recomputes else layer)
        return layers + (layer if recomputes else 0) + self.working(each)

    def kept(self, rank: int, targets: Collection[str], each: int, *, fused: bool) -> int:
        """Tell what one layer keeps of a token for its backward pass.

        Each of these is one tensor, however many operations share it: what a norm is given, in
        fp32 unless it is fused, and its scale; an adapted linear's input, which o_proj has for free
        (attention's output), and the rank-wide half of its adapter; queries, keys, values, output
        and the logarithm of attention's sums; gate, up, and unless they are fused the gate's
        activation. On a CPU examples of unequal lengths have attention's output twice; so have all
        in bf16, where short ones have attention in fp32.
        """
        adapted = set(targets) & self.linears.keys()
        normed, scales = 2 * self.hidden, 2
        if self.normed_heads:
            normed += self.queries + self.keys
            scales += self.heads + self.kv_heads
        attention = (2 * self.queries + 2 * self.keys) * (each if fused else EXACT)
        inputs = self._inputs(adapted) + len(adapted) * padded(rank)
        if "o_proj" in adapted and not fused and each < EXACT:
            inputs += self.queries
        plain = inputs + (2 if fused else 3) * self.intermediate
        norms = normed * (each if fused else EXACT)
        return EXACT * (scales + self.heads) + norms + attention + each * plain

    def working(self, each: int) -> int:
        """Tell what a token takes besides, at the most: in the last layer's MLP, on the way back.

        There are the gradients of the product and of both its factors, or, in their place, what
        comes back through an adapter, before and after its dropout; the gradient of what goes
        through the layers, the last hidden state, and an adapter's input with dropout; the cosines
        and sines of the token's place; its keys of dropout and its scale.
        """
        masks = self.layers * len(self.linears)
        widths = 3 * self.intermediate + 3 * self.hidden + 2 * self.head_dim
        return EXACT * (masks + 1) + each * widths

    def _inputs(self, adapted: set[str]) -> int:
        first = self.hidden if {"q_proj", "k_proj", "v_proj"} & adapted else 0
        second = self.hidden if {"gate_proj", "up_proj"} & adapted else 0
        return first + second + (self.intermediate if "down_proj" in adapted else 0)


def shape_of(config: Mapping[str, Any]) -> ModelShape:
    """Read the content of a config.json. Raises UnknownShape."""
    if any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise UnknownShape("it is a mixture of experts")
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return ModelShape(
            layers=int(config["num_hidden_layers"]),
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            tied_head=bool(config.get("tie_word_embeddings")),
            normed_heads=str(config.get("model_type")).startswith("qwen3"),
        )
    except KeyError as missing:
        raise UnknownShape(f"its config has no {missing.args[0]}") from None


def padded(rank: int) -> int:
    """Tell how wide a slot of this rank is."""
    return -(-rank // MULTIPLE) * MULTIPLE
