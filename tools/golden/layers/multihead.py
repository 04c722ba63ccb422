"""multihead: multiheadAttention, the module of package attention, y = concat(softmax(q kᵀ / √headDim + mask) v) Woᵀ + bo.

query [L, N, embedDim], key [S, N, kdim], value [S, N, vdim], or batch first, or without the batch; without key and value,
self-attention. Boolean masks are true where a query may not look, the opposite of scaledDotProductAttention; float masks are
added to the scores and receive a gradient. `weights` are the attention weights, of each head where averageAttnWeights is false;
dy is of y alone.
"""

import torch

from fixture import Case

FORWARD = {"average_attn_weights"}


def multihead(length, keys, masks=(), embed_dim=8, num_heads=2, batch=2, **options):
    """`keys` None is self-attention: only `query` is stored. `batch` None leaves the axis out. `masks`: see below."""
    c = Case("multiheadAttention", embed_dim=embed_dim, num_heads=num_heads, **options)
    options.pop("dtype", None)
    forward = {key: options.pop(key) for key in FORWARD & options.keys()}
    module = torch.nn.MultiheadAttention(embed_dim, num_heads, **options)

    def extent(size, width):
        if batch is None:
            return (size, width)
        return (batch, size, width) if options.get("batch_first") else (size, batch, width)

    query = c.normal("query", *extent(length, embed_dim))
    key = query if keys is None else c.normal("key", *extent(keys, options.get("kdim", embed_dim)))
    value = query if keys is None else c.normal("value", *extent(keys, options.get("vdim", embed_dim)))
    keys = keys or length
    extra = {}
    if "key_padding_mask" in masks:  # true where a key is padding
        padding = torch.arange(keys) >= torch.tensor([[keys], [keys - 2]])
        extra["key_padding_mask"] = c.constant("key_padding_mask", padding if batch else padding[1])
    if "key_padding_mask float" in masks:
        extra["key_padding_mask"] = c.normal("key_padding_mask", batch, keys)
    if "attn_mask" in masks:  # causal
        extra["attn_mask"] = c.constant("attn_mask", torch.ones(length, keys, dtype=torch.bool).triu(1))
    if "attn_mask heads" in masks:
        hidden = c.random("attn_mask", (batch or 1) * num_heads, length, keys) < 0
        hidden[..., 0] = False  # no query without a key: PyTorch's weights would be NaN
        extra["attn_mask"] = c.constant("attn_mask", hidden)
    if "attn_mask float" in masks:
        extra["attn_mask"] = c.normal("attn_mask", length, keys)
    if "attn_mask float heads" in masks:  # -inf above the diagonal, as torch.nn.Transformer makes them
        values = c.random("attn_mask", batch * num_heads, length, keys)
        values += torch.full((length, keys), float("-inf")).triu(1)
        extra["attn_mask"] = c.leaf("attn_mask", values)
    y, weights = torch.func.functional_call(module, c.parameters(module), (query, key, value), {**extra, **forward})
    c.output(y)
    c.store("weights", weights)
    return c


def cases():
    yield multihead(3, None)
    yield multihead(3, None, batch_first=True)
    yield multihead(4, None, batch=None)
    yield multihead(5, None, ["key_padding_mask", "attn_mask"], batch_first=True)
    yield multihead(5, None, ["attn_mask float heads"])
    yield multihead(3, None, ["attn_mask"], batch_first=True, average_attn_weights=False)
    yield multihead(3, 5, batch_first=True, bias=False)
    yield multihead(3, 5, kdim=4, vdim=12)
    yield multihead(3, 5, ["attn_mask float", "key_padding_mask float"], batch_first=True)
    yield multihead(3, 5, ["attn_mask heads", "key_padding_mask"])
    yield multihead(3, 5, ["key_padding_mask", "attn_mask"], batch=None, average_attn_weights=False)
    yield multihead(3, 5, ["key_padding_mask"], add_bias_kv=True, add_zero_attn=True)
    yield multihead(3, 5, ["attn_mask float"], add_bias_kv=True, batch_first=True, average_attn_weights=False)
    yield multihead(3, 5, ["attn_mask"], add_zero_attn=True)
    yield multihead(3, None, dtype="f16")
    yield multihead(3, 5, add_bias_kv=True, dtype="f16")
