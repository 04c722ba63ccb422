import type { Module, Tensor } from "@kindling/core";
import { fallback, type Jax, type JaxArray } from "../src/fallback/bridge.ts";
import { GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell } from "../src/layers/recurrent.ts";
import { compareWithPyTorch, type Inputs, type Options } from "./layers.ts";

const flat = ({ numpy: np }: Jax, x: Record<string, JaxArray>): JaxArray =>
  np.concatenate(
    Object.values(x).map((y) => y.flatten()),
    0,
  );

/** As the fixtures have it: output and states in one row. */
const inOneRow = (...tensors: Tensor[]): Tensor =>
  fallback(flat, Object.fromEntries(tensors.map((x, i) => [`x${i}`, x])), {});

/** The module with the fixture's parameters in place of its own. */
function withParameters<M extends Module>(module: M, inputs: Inputs): M {
  const names = Object.keys(module.stateDict());
  for (const [name, x] of Object.entries(inputs)) {
    if (/^(weight|bias)/.test(name) !== names.includes(name)) throw new Error(`${name} is not a parameter`);
    if (names.includes(name)) (module as unknown as Inputs)[name] = x;
  }
  return module;
}

const sizes = (x: Tensor, { hidden, ...options }: Options): [number, number, object] => [
  x.shape.at(-1)!,
  hidden,
  { ...(options as object), device: x.device },
];

type Recurrent = new (inputs: number, hidden: number, options: object) => RNN | GRU;
const sequence =
  (Layer: Recurrent) =>
  (inputs: Inputs, options: Options): Tensor => {
    const { output, h } = withParameters(new Layer(...sizes(inputs.x!, options)), inputs).forward(inputs.x!, inputs.h);
    return inOneRow(output, h);
  };

type Cell = new (inputs: number, hidden: number, options: object) => RNNCell | GRUCell;
const cell =
  (Layer: Cell) =>
  (inputs: Inputs, options: Options): Tensor =>
    inOneRow(withParameters(new Layer(...sizes(inputs.x!, options)), inputs).forward(inputs.x!, inputs.h));

const stateOf = ({ h, c }: Inputs) => (h && c ? { h, c } : null);

await compareWithPyTorch(
  "nn-recurrent",
  { rnn: sequence(RNN), gru: sequence(GRU), rnnCell: cell(RNNCell), gruCell: cell(GRUCell) },
  ["gru x=[7,3]", "f16", "gruCell x=[3,4] h="],
);

await compareWithPyTorch(
  "nn-lstm",
  {
    lstm: (inputs, options) => {
      const module = withParameters(new LSTM(...sizes(inputs.x!, options)), inputs);
      const { output, h, c } = module.forward(inputs.x!, stateOf(inputs));
      return inOneRow(output, h, c);
    },
    lstmCell: (inputs, options) => {
      const { h, c } = withParameters(new LSTMCell(...sizes(inputs.x!, options)), inputs).forward(
        inputs.x!,
        stateOf(inputs),
      );
      return inOneRow(h, c);
    },
  },
  ["projSize=2", "f16"],
);
