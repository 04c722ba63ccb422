"""attention: scaledDotProductAttention y = softmax(q kᵀ scale + attn_mask) v, and multiheadAttention around it.

q [batch, heads, L, headDim], k and v [batch, heads or a divisor, S, headDim]; the causal mask is aligned to the first query
and the first key, as PyTorch's is. A boolean mask is true where a query may look, and its second row is all false, which
gives zeros. A float mask is added to the scores and receives a gradient.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fixture import Case


def attention(batch, heads, length, keys, dim, kv_heads=None, value_dim=None, mask=None, sharpness=1, **options):
    """`mask`: None, or "bool" or "float" (the case's option attnMask) and the shape of attn_mask before [L, S]."""
    kv_heads = kv_heads or heads
    if kv_heads != heads:
        options["enable_gqa"] = True
    c = Case("scaledDotProductAttention", **options, **({"attn_mask": mask[0]} if mask else {}))
    options.pop("dtype", None)
    q = c.normal("q", batch, heads, length, dim, scale=sharpness)
    k = c.normal("k", batch, kv_heads, keys, dim)
    v = c.normal("v", batch, kv_heads, keys, value_dim or dim)
    if mask:
        kind, before = mask
        shape = [*before, length, keys]
        if kind == "bool":
            allowed = c.random("attn_mask", *shape) < 0.5
            allowed[..., 1, :] = False
            options["attn_mask"] = c.constant("attn_mask", allowed)
        else:
            options["attn_mask"] = c.normal("attn_mask", *shape)
    with sdpa_kernel(SDPBackend.MATH):
        return c.output(F.scaled_dot_product_attention(q, k, v, **options))


def multihead(length, keys, masks=(), embed_dim=8, num_heads=2, **options):
    """`keys` None is self-attention: only `query` is stored. `weights` are the averaged attention weights."""
    c = Case("multiheadAttention", embed_dim=embed_dim, num_heads=num_heads, **options)
    module = torch.nn.MultiheadAttention(embed_dim, num_heads, **options)

    def extent(size, width):
        return (2, size, width) if options.get("batch_first") else (size, 2, width)

    query = c.normal("query", *extent(length, embed_dim))
    key = query if keys is None else c.normal("key", *extent(keys, options.get("kdim", embed_dim)))
    value = query if keys is None else c.normal("value", *extent(keys, options.get("vdim", embed_dim)))
    keys = keys or length
    extra = {}
    if "key_padding_mask" in masks:  # true where a key is padding
        extra["key_padding_mask"] = c.constant("key_padding_mask", torch.arange(keys) >= torch.tensor([[keys], [keys - 2]]))
    if "attn_mask" in masks:  # true where a query may not look, the opposite of scaledDotProductAttention
        extra["attn_mask"] = c.constant("attn_mask", torch.ones(length, keys, dtype=torch.bool).triu(1))
    y, weights = torch.func.functional_call(module, c.parameters(module), (query, key, value), extra)
    c.output(y)
    c.store("weights", weights)
    return c


def cases():
    yield attention(1, 1, 1, 1, 16)
    yield attention(1, 1, 9, 5, 20)
    yield attention(1, 1, 9, 5, 20, is_causal=True)
    yield attention(1, 4, 3, 3, 16, kv_heads=2, is_causal=True)
    yield attention(2, 2, 3, 3, 20, is_causal=True)
    yield attention(1, 1, 3, 5, 64, is_causal=True)
    yield attention(1, 1, 67, 67, 16, is_causal=True)
    yield attention(1, 1, 1, 2, 128)
    yield attention(1, 3, 3, 5, 20, kv_heads=1)
    yield attention(1, 2, 3, 3, 16, is_causal=True, scale=0.3)
    yield attention(1, 1, 2, 5, 16, scale=1.0)
    yield attention(1, 1, 5, 5, 16, sharpness=50, is_causal=True)  # weights that are nearly 0 or 1
    yield attention(1, 1, 3, 5, 16, value_dim=20)
    for kind in "bool", "float":
        yield attention(1, 2, 3, 5, 16, mask=(kind, []))
        yield attention(2, 2, 2, 3, 16, mask=(kind, [2, 1]))
    yield attention(1, 1, 17, 17, 16, is_causal=True, dtype="f16")
    yield attention(1, 1, 3, 5, 64, is_causal=True, dtype="f16")
    yield attention(1, 4, 3, 5, 16, kv_heads=2, scale=0.3, dtype="f16")
    yield attention(1, 2, 3, 5, 16, mask=("float", []), dtype="f16")

    yield multihead(3, None)
    yield multihead(3, 5, batch_first=True, bias=False)
    yield multihead(3, 5, kdim=5, vdim=7)
    yield multihead(5, None, ["key_padding_mask", "attn_mask"], batch_first=True)
    yield multihead(3, 5, ["key_padding_mask"], add_bias_kv=True, add_zero_attn=True)
