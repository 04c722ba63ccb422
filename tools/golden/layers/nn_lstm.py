"""nn-lstm: LSTM and LSTMCell, as in nn_recurrent.py."""

from layers.nn_recurrent import common, sequence


def cases():
    yield from common("lstm")
    yield sequence("lstm", [5, 2, 3], 6, proj_size=2, state=True)
    yield sequence("lstm", [2, 4, 3], 5, proj_size=4, num_layers=2, bidirectional=True, batch_first=True, state=True)
    yield sequence("lstm", [5, 2, 3], 4, dtype="f16")
