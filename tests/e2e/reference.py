"""An independent forward pass: numpy in float64 over blocks that the `gguf` package dequantised.

It shares nothing with Laminar but the model file, so that equal logits mean right logits.

    logits(path, ids) -> array [T, V]
    reference.py MODEL --ids 1,2,3 [--rows K]      prints one JSON object
"""

import argparse
import json

import gguf
import numpy as np


class Model:
    """A GGUF file of architecture llama. Tensors are dequantised when they are asked for."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.fields = reader.fields
        if self.text("general.architecture") != "llama":
            raise ValueError(f"{path}: the reference knows architecture llama only")
        self.n_layers = self.number("llama.block_count")
        self.n_heads = self.number("llama.attention.head_count")
        self.n_kv_heads = self.number("llama.attention.head_count_kv", self.n_heads)
        self.n_embd = self.number("llama.embedding_length")
        self.head_dim = self.number("llama.attention.key_length", self.n_embd // self.n_heads)
        self.rope_dim = self.number("llama.rope.dimension_count", self.head_dim)
        self.rope_base = self.number("llama.rope.freq_base", 10000.0)
        self.norm_eps = self.number("llama.attention.layer_norm_rms_epsilon")
        self.rope_scale = 1.0
        if self.text("llama.rope.scaling.type", "none") == "linear":
            self.rope_scale = self.number("llama.rope.scaling.factor", 1.0)

    def number(self, key, default=None):
        if key not in self.fields:
            if default is None:
                raise ValueError(f"the model file has no {key}")
            return default
        return self.fields[key].parts[-1][0].item()

    def text(self, key, default=None):
        if key not in self.fields:
            return default
        return bytes(self.fields[key].parts[-1]).decode()

    def weight(self, name):
        tensor = self.tensors[name]
        rows = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return rows.reshape([int(n) for n in reversed(tensor.shape)]).astype(np.float64)

    def activations(self, x):
        """What a product reads. A subclass that rounds here shows what rounding explains."""
        return x

    def product(self, x, name):
        return self.activations(x) @ self.weight(name).T

    def head(self):
        tied = "output.weight" not in self.tensors
        return "token_embd.weight" if tied else "output.weight"


def norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rotation(model, n_positions):
    """cos and sin, [T, rope_dim / 2]."""
    exponent = -np.arange(0, model.rope_dim, 2, dtype=np.float64) / model.rope_dim
    frequency = model.rope_base**exponent
    if "rope_freqs.weight" in model.tensors:
        frequency = frequency / model.weight("rope_freqs.weight")
    angle = np.outer(np.arange(n_positions) / model.rope_scale, frequency)
    return np.cos(angle), np.sin(angle)


def rotate(heads, cos, sin):
    """heads: [T, H, d]. In this file format a pair is two neighbours."""
    out = heads.copy()
    end = 2 * cos.shape[-1]
    even, odd = heads[..., 0:end:2], heads[..., 1:end:2]
    cos, sin = cos[:, None, :], sin[:, None, :]
    out[..., 0:end:2] = even * cos - odd * sin
    out[..., 1:end:2] = even * sin + odd * cos
    return out


def attention(q, k, v):
    """q: [T, H, d], k and v: [T, K, d]; each group of H / K query heads shares a key/value head."""
    n_positions, n_heads, head_dim = q.shape
    group = n_heads // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(head_dim)
    scores[:, np.triu(np.ones((n_positions, n_positions), dtype=bool), k=1)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return np.einsum("hts,shd->thd", scores, v).reshape(n_positions, n_heads * head_dim)


def layer(model, x, index, cos, sin):
    def name(part):
        return f"blk.{index}.{part}.weight"

    def heads(normed, part, n_heads):
        return model.product(normed, name(part)).reshape(len(x), n_heads, model.head_dim)

    normed = norm(x, model.weight(name("attn_norm")), model.norm_eps)
    q = heads(normed, "attn_q", model.n_heads)
    k = heads(normed, "attn_k", model.n_kv_heads)
    v = heads(normed, "attn_v", model.n_kv_heads)
    mixed = attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
    x = x + model.product(mixed, name("attn_output"))
    normed = norm(x, model.weight(name("ffn_norm")), model.norm_eps)
    gate = model.product(normed, name("ffn_gate"))
    up = model.product(normed, name("ffn_up"))
    return x + model.product(gate / (1 + np.exp(-gate)) * up, name("ffn_down"))


def logits(path, ids, model=None):
    """Logits of every position of the sequence `ids`: [T, V]."""
    model = model or Model(path)
    x = model.weight("token_embd.weight")[np.asarray(ids)]
    cos, sin = rotation(model, len(ids))
    for index in range(model.n_layers):
        x = layer(model, x, index, cos, sin)
    normed = norm(x, model.weight("output_norm.weight"), model.norm_eps)
    return model.product(normed, model.head())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--ids", required=True, help="token ids, separated by commas")
    parser.add_argument("--rows", type=int, default=1, help="the last K positions")
    args = parser.parse_args()
    ids = [int(text) for text in args.ids.split(",")]
    rows = logits(args.model, ids)[-args.rows:]
    print(json.dumps({"version": 1, "ids": ids, "rows": len(rows), "logits": rows.tolist()}))


if __name__ == "__main__":
    main()
