/**
 * Multi-head attention as plain loops in float64: the specification and the test oracle.
 *
 *   q = query Wqᵀ + bq        k = key Wkᵀ + bk, then the rows biasK and zero        v likewise
 *   p = softmax(q kᵀ / √headDim + mask) for each head        y = concat(p v) Woᵀ + bo
 *
 * query: [batch, queries, embedDim], key: [batch, keys, kdim], value: [batch, keys, vdim].
 */
type Values = ArrayLike<number>;

export interface MultiheadParameters {
  readonly query: Values;
  readonly key: Values;
  readonly value: Values;
  readonly qWeight: Values;
  readonly kWeight: Values;
  readonly vWeight: Values;
  readonly outWeight: Values;
  readonly qBias?: Values | undefined;
  readonly kBias?: Values | undefined;
  readonly vBias?: Values | undefined;
  readonly outBias?: Values | undefined;
  /** One more key and value. */
  readonly biasK?: Values | undefined;
  readonly biasV?: Values | undefined;
  /** [batch, heads, queries, keys + appended rows]: added to the scores; -Infinity hides a key. */
  readonly mask?: Values | undefined;
}

export interface MultiheadDims {
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  readonly embedDim: number;
  readonly kdim?: number | undefined;
  readonly vdim?: number | undefined;
  /** One more key and value, of zeros. */
  readonly addZeroAttn?: boolean | undefined;
}

export interface MultiheadResult {
  readonly y: Float64Array;
  /** [batch, heads, queries, keys + appended rows] */
  readonly weights: Float64Array;
  readonly grads: { readonly [K in keyof MultiheadParameters]?: Float64Array };
}

/** `dy` and `dWeights` are the gradients of y and of the weights. */
export function multiheadReference(
  inputs: MultiheadParameters,
  { batch, heads, queries, keys, embedDim, kdim = embedDim, vdim = embedDim, addZeroAttn = false }: MultiheadDims,
  dy: Values,
  dWeights: Values | null = null,
): MultiheadResult {
  const dim = embedDim / heads;
  const extra = (inputs.biasK ? 1 : 0) + (addZeroAttn ? 1 : 0);
  const total = keys + extra;
  const scale = 1 / Math.sqrt(dim);
  const q = linear(inputs.query, inputs.qWeight, inputs.qBias, embedDim);
  const k = append(linear(inputs.key, inputs.kWeight, inputs.kBias, kdim), inputs.biasK);
  const v = append(linear(inputs.value, inputs.vWeight, inputs.vBias, vdim), inputs.biasV);
  const joined = new Float64Array(batch * queries * embedDim);
  const weights = new Float64Array(batch * heads * queries * total);
  const at = (n: number, row: number, rows: number, h: number, c: number): number =>
    (n * rows + row) * embedDim + h * dim + c;

  for (let n = 0; n < batch; n++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < queries; i++) {
        const row = ((n * heads + h) * queries + i) * total;
        let max = Number.NEGATIVE_INFINITY;
        for (let j = 0; j < total; j++) {
          let s = 0;
          for (let c = 0; c < dim; c++) s += q[at(n, i, queries, h, c)]! * k[at(n, j, total, h, c)]!;
          weights[row + j] = s * scale + (inputs.mask?.[row + j] ?? 0);
          max = Math.max(max, weights[row + j]!);
        }
        let sum = 0;
        for (let j = 0; j < total; j++)
          sum += weights[row + j] = max > -Infinity ? Math.exp(weights[row + j]! - max) : 0;
        for (let j = 0; j < total; j++) {
          weights[row + j]! /= sum || 1;
          for (let c = 0; c < dim; c++)
            joined[at(n, i, queries, h, c)]! += weights[row + j]! * v[at(n, j, total, h, c)]!;
        }
      }
    }
  }
  const y = linear(joined, inputs.outWeight, inputs.outBias, embedDim);

  const out = linearGrad(dy, joined, inputs.outWeight, embedDim);
  const [dq, dk, dv] = [new Float64Array(q.length), new Float64Array(k.length), new Float64Array(v.length)];
  const mask = new Float64Array(weights.length);
  for (let n = 0; n < batch; n++) {
    for (let h = 0; h < heads; h++) {
      for (let i = 0; i < queries; i++) {
        const row = ((n * heads + h) * queries + i) * total;
        const dp = new Float64Array(total);
        let delta = 0;
        for (let j = 0; j < total; j++) {
          dp[j] = dWeights?.[row + j] ?? 0;
          for (let c = 0; c < dim; c++) {
            dp[j]! += out.dx[at(n, i, queries, h, c)]! * v[at(n, j, total, h, c)]!;
            dv[at(n, j, total, h, c)]! += weights[row + j]! * out.dx[at(n, i, queries, h, c)]!;
          }
          delta += dp[j]! * weights[row + j]!;
        }
        for (let j = 0; j < total; j++) {
          const ds = weights[row + j]! * (dp[j]! - delta);
          mask[row + j] = ds;
          for (let c = 0; c < dim; c++) {
            dq[at(n, i, queries, h, c)]! += scale * ds * k[at(n, j, total, h, c)]!;
            dk[at(n, j, total, h, c)]! += scale * ds * q[at(n, i, queries, h, c)]!;
          }
        }
      }
    }
  }
  const [kGrad, vGrad] = [detach(dk), detach(dv)];
  const [query, key, value] = [
    linearGrad(dq, inputs.query, inputs.qWeight, embedDim),
    linearGrad(kGrad.rows, inputs.key, inputs.kWeight, kdim),
    linearGrad(vGrad.rows, inputs.value, inputs.vWeight, vdim),
  ];
  const grads = {
    ...{ query: query.dx, key: key.dx, value: value.dx },
    ...{ qWeight: query.dw, kWeight: key.dw, vWeight: value.dw, outWeight: out.dw },
    ...{ qBias: query.db, kBias: key.db, vBias: value.db, outBias: out.db },
    ...{ biasK: kGrad.bias, biasV: vGrad.bias, mask },
  };
  return { y, weights, grads };

  /** The rows of each batch, then `bias`, then zeros. */
  function append(rows: Float64Array, bias: Values | undefined): Float64Array {
    const all = new Float64Array(batch * total * embedDim);
    for (let n = 0; n < batch; n++) {
      all.set(rows.subarray(n * keys * embedDim, (n + 1) * keys * embedDim), n * total * embedDim);
      for (let c = 0; c < embedDim; c++) if (bias) all[(n * total + keys) * embedDim + c] = bias[c]!;
    }
    return all;
  }

  /** What `append` did, undone for gradients. */
  function detach(all: Float64Array): { rows: Float64Array; bias: Float64Array } {
    const rows = new Float64Array(batch * keys * embedDim);
    const bias = new Float64Array(embedDim);
    for (let n = 0; n < batch; n++) {
      rows.set(all.subarray(n * total * embedDim, (n * total + keys) * embedDim), n * keys * embedDim);
      for (let c = 0; c < embedDim; c++) if (inputs.biasK) bias[c]! += all[(n * total + keys) * embedDim + c]!;
    }
    return { rows, bias };
  }
}

function linear(x: Values, w: Values, b: Values | undefined, inputs: number): Float64Array {
  const outputs = w.length / inputs;
  return Float64Array.from({ length: (x.length / inputs) * outputs }, (_, n) => {
    const [row, o] = [Math.floor(n / outputs), n % outputs];
    let sum = b?.[o] ?? 0;
    for (let i = 0; i < inputs; i++) sum += x[row * inputs + i]! * w[o * inputs + i]!;
    return sum;
  });
}

function linearGrad(
  dy: Values,
  x: Values,
  w: Values,
  inputs: number,
): { dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const outputs = w.length / inputs;
  const [dx, dw, db] = [new Float64Array(x.length), new Float64Array(w.length), new Float64Array(outputs)];
  for (let n = 0; n < dy.length; n++) {
    const [row, o] = [Math.floor(n / outputs), n % outputs];
    db[o]! += dy[n]!;
    for (let i = 0; i < inputs; i++) {
      dx[row * inputs + i]! += dy[n]! * w[o * inputs + i]!;
      dw[o * inputs + i]! += dy[n]! * x[row * inputs + i]!;
    }
  }
  return { dx, dw, db };
}
