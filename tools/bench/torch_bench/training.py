"""Training steps of GPTs: forward, backward, fused AdamW. Layer or None, name and function of each case."""

from functools import partial

import torch
import torch.nn.functional as F
from measure import DEVICE, DTYPES, autocast, check, ids, precision, timed
from torch import nn


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(width, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """The model of examples/gpt."""

    def __init__(self, layers, width, heads, context, vocabulary):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.h = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("positions", torch.arange(context), persistent=False)
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(p)
            elif p.dim() == 2:
                nn.init.normal_(p, 0, 0.02)

    def forward(self, tokens):
        return self.lm_head(self.ln_f(self.h(self.wte(tokens) + self.wpe(self.positions))))


def cases(sizes):
    def training(config, dtype):
        batch, context, vocabulary = config["batch"], config["context"], config["vocabulary"]
        text = ids(batch * context + 1, vocabulary)
        tokens, targets = text[:-1].view(batch, context), text[1:]
        model = GPT(config["layers"], config["width"], config["heads"], context, vocabulary).to(DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        scaler = torch.amp.GradScaler(DEVICE.type, enabled=dtype == "f16")

        def step():
            optimizer.zero_grad(set_to_none=True)
            with autocast(dtype):
                loss = F.cross_entropy(model(tokens).flatten(0, 1), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss

        check(*[step() for _ in range(5)])
        return timed(step)

    for config in sizes["gpt"]:
        for dtype in DTYPES:
            name = f"gpt {config['layers']}×{config['width']} {precision(dtype)}"
            yield None, name, partial(training, config, dtype)
