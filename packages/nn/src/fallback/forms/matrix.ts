/** Products of matrices, and the layers around one. */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { activate, type Named } from "./activations.ts";
import { drop } from "./random.ts";

const swapped = (x: JaxArray): JaxArray => {
  const axes = [...x.shape.keys()];
  return x.transpose([...axes.slice(0, -2), axes.at(-1)!, axes.at(-2)!]);
};

/** x [..., in] times weightᵀ [in, out], plus bias [out]. */
export function project({ numpy: np }: Jax, x: JaxArray, weight: JaxArray, bias?: JaxArray): JaxArray {
  const lead = x.shape.slice(0, -1);
  const y = np.matmul(x.reshape([-1, x.shape.at(-1)!]), swapped(weight)).reshape([...lead, weight.shape[0]!]);
  return bias ? y.add(bias) : y;
}

export interface LinearSettings {
  readonly activation: Named | null;
  readonly dropout: number;
}

export const linear: Form<LinearSettings, JaxArray> = (jax, { x, weight, bias, rng }, { activation, dropout }) => {
  const y = activate(jax, project(jax, x!, weight!, bias), activation);
  return rng ? drop(jax, y, dropout, rng) : y;
};

export interface MatmulSettings {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

export const matmul: Form<MatmulSettings, JaxArray> = ({ numpy: np }, { a, b, bias }, { transposeA, transposeB }) => {
  const y = np.matmul(transposeA ? swapped(a!) : a!, transposeB ? swapped(b!) : b!);
  return bias ? y.add(bias) : y;
};
