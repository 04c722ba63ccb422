"""transformer: encoder and decoder layers, their stacks and the whole, of package nn.

x = norm1(x + attention(x)), x = norm2(x + mlp(x)), or with norm_first x + attention(norm1(x)), x + mlp(norm2(x)).

src [S, N, dModel], tgt [T, N, dModel], memory [S, N, dModel], or batch first, or without the batch; parameters carry the names
that they have in PyTorch's modules, and the case's name does not list their shapes. Boolean masks are true where a query may not look.
Dropout is 0. `gated` is not PyTorch's: linear1 has two halves a and b, and the MLP is linear2(a · f(b)).
"""

import warnings

import torch

from fixture import Case

D, HEADS, FF = 8, 2, 10
LAYER = {"d_model": D, "nhead": HEADS, "dim_feedforward": FF, "dropout": 0.0}


class Short(Case):
    @property
    def name(self):
        inputs, self.inputs = self.inputs, {key: x for key, x in self.inputs.items() if "." not in key}
        try:
            return Case.name.fget(self)
        finally:
            self.inputs = inputs


def sequence(c, name, length, options, batch=2):
    if batch is None:
        return c.normal(name, length, D)
    return c.normal(name, *((batch, length, D) if options.get("batch_first") else (length, batch, D)))


def masks_of(c, wanted, sizes, batch=2):
    """`wanted`: the arguments of forward; those with key_padding are boolean, others as they say."""
    extra = {}
    for argument in wanted:
        name, _, kind = argument.partition(" ")
        queries, keys = sizes[name]
        if "key_padding" in name:
            padding = torch.arange(keys) >= torch.tensor([[keys], [keys - 2]])
            extra[name] = c.constant(name, padding if batch else padding[1])
        elif kind == "float":
            extra[name] = c.normal(name, queries, keys)
        else:
            extra[name] = c.constant(name, torch.ones(queries, keys, dtype=torch.bool).triu(1))
    return extra


class GatedLayer(torch.nn.TransformerEncoderLayer):
    def __init__(self, **options):
        super().__init__(**options)
        self.linear1 = torch.nn.Linear(D, 2 * FF)

    def _ff_block(self, x):
        a, b = self.linear1(x).chunk(2, -1)
        return self.linear2(a * self.activation(b))


def encoder_layer(length=5, masks=(), batch=2, gated=False, **options):
    c = Short("transformerEncoderLayer", **options, **({"gated": True} if gated else {}))
    options.pop("dtype", None)
    module = (GatedLayer if gated else torch.nn.TransformerEncoderLayer)(**LAYER, **options)
    src = sequence(c, "src", length, options, batch)
    sizes = {"src_mask": (length, length), "src_key_padding_mask": (length, length)}
    extra = masks_of(c, masks, sizes, batch)
    return c.output(torch.func.functional_call(module, c.parameters(module), (src,), extra))


def decoder_layer(masks=(), **options):
    c = Short("transformerDecoderLayer", **options)
    module = torch.nn.TransformerDecoderLayer(**LAYER, **options)
    tgt = sequence(c, "tgt", 3, options)
    memory = sequence(c, "memory", 5, options)
    sizes = {"tgt_mask": (3, 3), "tgt_key_padding_mask": (3, 3), "memory_mask": (3, 5), "memory_key_padding_mask": (3, 5)}
    extra = masks_of(c, masks, sizes)
    return c.output(torch.func.functional_call(module, c.parameters(module), (tgt, memory), extra))


def encoder(**options):
    c = Short("transformerEncoder", **options)
    layer = torch.nn.TransformerEncoderLayer(**LAYER, **options)
    module = torch.nn.TransformerEncoder(layer, 2, norm=torch.nn.LayerNorm(D), enable_nested_tensor=False)
    src = sequence(c, "src", 4, options)
    return c.output(torch.func.functional_call(module, c.parameters(module), (src,)))


def transformer(masks=(), **options):
    c = Short("transformer", **options)
    with warnings.catch_warnings(action="ignore"):  # of nested tensors
        module = torch.nn.Transformer(**LAYER, num_encoder_layers=1, num_decoder_layers=1, **options)
    src = sequence(c, "src", 5, options)
    tgt = sequence(c, "tgt", 3, options)
    sizes = {"src_key_padding_mask": (5, 5), "tgt_mask": (3, 3), "memory_key_padding_mask": (3, 5)}
    extra = masks_of(c, masks, sizes)
    return c.output(torch.func.functional_call(module, c.parameters(module), (src, tgt), extra))


def cases():
    yield encoder_layer()
    yield encoder_layer(batch=None)
    yield encoder_layer(masks=["src_mask", "src_key_padding_mask"], batch_first=True, activation="gelu")
    yield encoder_layer(masks=["src_mask float"], norm_first=True)
    yield encoder_layer(masks=["src_key_padding_mask"], batch_first=True, norm_first=True, bias=False, layer_norm_eps=0.1)
    yield encoder_layer(gated=True, norm_first=True, activation="gelu")
    yield encoder_layer(norm_first=True, dtype="f16")
    yield decoder_layer()
    yield decoder_layer(masks=["tgt_mask", "memory_key_padding_mask"], batch_first=True, norm_first=True)
    yield decoder_layer(masks=["tgt_mask float", "memory_mask float"], activation="gelu", bias=False)
    yield decoder_layer(masks=["tgt_key_padding_mask", "memory_mask"], norm_first=True)
    yield encoder(batch_first=True, norm_first=True)
    yield transformer()
    yield transformer(masks=["src_key_padding_mask", "tgt_mask", "memory_key_padding_mask"], batch_first=True, norm_first=True)
