"""attention: scaledDotProductAttention y = softmax(q kᵀ scale + attn_mask) v; multiheadAttention is in multihead.py.

q [batch, heads, L, headDim], k and v [batch, heads or a divisor, S, headDim]; the causal mask is aligned to the first query
and the first key, as PyTorch's is. A boolean mask is true where a query may look, and its second row is all false, which
gives zeros. A float mask is added to the scores and receives a gradient; "hiding" is one with -inf in it.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from fixture import Case


def attention(batch, heads, length, keys, dim, kv_heads=None, value_dim=None, mask=None, sharpness=1, **options):
    """`mask`: None, or "bool", "float" or "hiding" (the case's option attnMask) and the shape of attn_mask."""
    kv_heads = kv_heads or heads
    if kv_heads != heads:
        options["enable_gqa"] = True
    c = Case("scaledDotProductAttention", **options, **({"attn_mask": mask[0]} if mask else {}))
    options.pop("dtype", None)
    q = c.normal("q", batch, heads, length, dim, scale=sharpness)
    k = c.normal("k", batch, kv_heads, keys, dim)
    v = c.normal("v", batch, kv_heads, keys, value_dim or dim)
    if mask:
        kind, shape = mask
        if kind == "bool":
            allowed = c.random("attn_mask", *shape) < 0.5
            if len(shape) > 1 and shape[-2] > 1:
                allowed[..., 1, :] = False
            options["attn_mask"] = c.constant("attn_mask", allowed)
        elif kind == "hiding":  # -inf hides a key, the lowest finite number in a whole row hides none
            values = c.random("attn_mask", *shape)
            values[values > 0.7] = -torch.inf
            values[..., 0, :] = torch.finfo(torch.float32).min
            values[..., 1, :] = -torch.inf
            options["attn_mask"] = c.leaf("attn_mask", values)
        else:
            options["attn_mask"] = c.normal("attn_mask", *shape)
    with sdpa_kernel(SDPBackend.MATH):
        return c.output(F.scaled_dot_product_attention(q, k, v, **options))


def windowed(length, keys, window, query_offset=0, key_length=None, causal=False):
    """What PyTorch has no option for, by a mask and a slice: query i at place query_offset + i sees window[0] keys before it
    and window[1] behind it, -1 for all, of the first key_length."""
    options = {"window": window} if window else {}
    if query_offset:
        options["query_offset"] = query_offset
    if key_length:
        options["key_length"] = key_length
    if causal:
        options["is_causal"] = True
    c = Case("scaledDotProductAttention", **options)
    q, k, v = c.normal("q", 1, 2, length, 4), c.normal("k", 1, 2, keys, 4), c.normal("v", 1, 2, keys, 4)
    left, right = window or (-1, -1)
    away = torch.arange(key_length or keys) - (torch.arange(length)[:, None] + query_offset)
    allowed = (away >= (-left if left >= 0 else -keys - length - query_offset)) & (away <= (right if right >= 0 else keys))
    if causal:
        allowed &= away <= 0
    k, v = k[:, :, :key_length], v[:, :, :key_length]
    with sdpa_kernel(SDPBackend.MATH):
        return c.output(F.scaled_dot_product_attention(q, k, v, attn_mask=allowed))


def cases():
    yield attention(1, 1, 1, 1, 16)
    yield attention(1, 1, 9, 5, 20)
    yield attention(1, 1, 9, 5, 20, is_causal=True)
    yield attention(1, 4, 3, 3, 16, kv_heads=2, is_causal=True)
    yield attention(2, 2, 3, 3, 20, is_causal=True)
    yield attention(1, 1, 3, 5, 64, is_causal=True)
    yield attention(1, 1, 67, 67, 4, is_causal=True)
    yield attention(1, 1, 1, 2, 128)
    yield attention(1, 3, 3, 5, 20, kv_heads=1)
    yield attention(1, 2, 3, 3, 16, is_causal=True, scale=0.3)
    yield attention(1, 1, 2, 5, 16, scale=1.0)
    yield attention(1, 1, 5, 5, 16, sharpness=50, is_causal=True)  # weights that are nearly 0 or 1
    yield attention(1, 1, 3, 5, 16, value_dim=20)
    for kind in "bool", "float":
        yield attention(1, 2, 3, 5, 16, mask=(kind, [3, 5]))
        yield attention(2, 2, 2, 3, 16, mask=(kind, [2, 1, 2, 3]))
    yield attention(2, 2, 2, 3, 4, mask=("bool", [2, 1, 1, 3]))  # padding of keys
    yield attention(2, 2, 3, 3, 4, kv_heads=1, value_dim=3, mask=("float", [2, 3, 3]))
    yield attention(2, 2, 2, 3, 4, mask=("float", [2, 1, 1, 3]))
    yield attention(1, 2, 3, 3, 4, mask=("float", [2, 3, 1]))
    yield attention(1, 2, 2, 3, 4, mask=("float", [3]))
    yield attention(2, 1, 4, 5, 4, mask=("hiding", [4, 5]))
    yield windowed(9, 7, [2, 1])  # its last query sees no key
    yield windowed(5, 9, [2, -1], query_offset=3, causal=True)
    yield windowed(2, 9, None, query_offset=5, key_length=7, causal=True)
    yield attention(1, 1, 17, 17, 16, is_causal=True, dtype="f16")
    yield attention(1, 1, 3, 5, 64, is_causal=True, dtype="f16")
    yield attention(1, 4, 3, 5, 16, kv_heads=2, scale=0.3, dtype="f16")
    yield attention(1, 2, 3, 5, 16, mask=("float", [3, 5]), dtype="f16")
