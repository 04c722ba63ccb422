"""nn-recurrent: RNN, GRU and their cells; nn_lstm.py has LSTM. y is the output followed by the last h and c, flat in one row.

Parameters carry PyTorch's names; h and c are the initial states.
"""

import torch

from fixture import Case


def sequence(kind, shape, hidden, state=False, **options):
    c = Case(kind, hidden=hidden, **options)
    known = {key: value for key, value in options.items() if key != "dtype"}
    module = getattr(torch.nn, kind.upper())(shape[-1], hidden, **known)
    parameters = c.parameters(module)
    x = c.normal("x", *shape)
    batch = [shape[0 if options.get("batch_first") else 1]] if len(shape) == 3 else []
    count = module.num_layers * (2 if module.bidirectional else 1)
    initial = None
    if state:
        h = c.normal("h", count, *batch, module.proj_size or hidden)
        initial = (h, c.normal("c", count, *batch, hidden)) if kind == "lstm" else h
    output, last = torch.func.functional_call(module, parameters, (x, initial))
    states = last if kind == "lstm" else (last,)
    return c.output(torch.cat([t.flatten() for t in (output, *states)]))


def cell(kind, shape, hidden, state=False, **options):
    c = Case(f"{kind}Cell", hidden=hidden, **options)
    module = getattr(torch.nn, f"{kind.upper()}Cell")(shape[-1], hidden, **options)
    parameters = c.parameters(module)
    x = c.normal("x", *shape)
    initial = None
    if state:
        h = c.normal("h", *shape[:-1], hidden)
        initial = (h, c.normal("c", *shape[:-1], hidden)) if kind == "lstm" else h
    y = torch.func.functional_call(module, parameters, (x, initial))
    return c.output(torch.cat([t.flatten() for t in (y if kind == "lstm" else (y,))]))


def common(*kinds):
    for kind in kinds:
        yield sequence(kind, [1, 1, 1], 1)
        yield sequence(kind, [5, 2, 3], 4, state=True)
        yield sequence(kind, [3, 7, 3], 4, batch_first=True, bias=False)
        yield sequence(kind, [6, 3], 5, state=True)
        yield sequence(kind, [4, 2, 3], 5, num_layers=2, bidirectional=True, state=True)
        yield sequence(kind, [2, 5, 3], 4, num_layers=2, batch_first=True)
        yield sequence(kind, [7, 3], 4, bidirectional=True)
        yield sequence(kind, [37, 1, 2], 3)
        yield cell(kind, [3, 4], 5)
        yield cell(kind, [3, 4], 5, state=True)
        yield cell(kind, [4], 3, state=True, bias=False)


def cases():
    yield from common("rnn", "gru")
    yield sequence("rnn", [5, 2, 3], 4, nonlinearity="relu")
    yield cell("rnn", [2, 3], 4, nonlinearity="relu")
    yield sequence("gru", [5, 2, 3], 4, dtype="f16")
