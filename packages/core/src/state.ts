/**
 * What the library knows between calls: default device, grad mode, autocast, open scopes.
 *
 * It lives on globalThis under a registered symbol, so that two copies of core in one bundle (a bundler's accident, or a
 * copied layer beside an installed one) share one default device and one tape mode instead of silently having two.
 */
import type { Delegate } from "./delegate.ts";
import type { Device } from "./device.ts";
import type { Scope } from "./scope.ts";
import type { FloatType } from "./tensor.ts";

export interface State {
  device: Device | undefined;
  /** False inside `noGrad`: operations are not put on the tape. */
  grad: boolean;
  /** The dtype of matrix operands inside `autocast`. */
  autocast: FloatType | null;
  scopes: Scope[];
  /** Computes layers in place of their kernels. */
  delegate: Delegate | null;
  /** See provideCpu. */
  openCpu: ((reason?: Error) => Promise<GPUDevice>) | undefined;
  /** Counts recorded operations; backward visits them in falling order. */
  sequence: number;
}

const KEY: unique symbol = Symbol.for("@kindling/core/state/1") as never;

export const state: State = ((globalThis as { [KEY]?: State })[KEY] ??= {
  device: undefined,
  grad: true,
  autocast: null,
  scopes: [],
  delegate: null,
  openCpu: undefined,
  sequence: 0,
});
