/**
 * What computes fallback layers. A provider takes a form, which is a layer in the words of its library, and makes a program of
 * it for tensors of given shapes; the bridge runs the program and records it. jax.ts is one; another library could be one.
 */
import type { DType, Shape, Tensor } from "@kindling/core";

/** A tensor's name in the form, shape and dtype: what a program is made for. Never f16, which the bridge converts. */
export interface Operand {
  readonly name: string;
  readonly shape: Shape;
  readonly dtype: Exclude<DType, "f16">;
}

/** A form for operands and settings. Tensors go in and come out in the order of the operands and of the form's results. */
export interface Program {
  /** The form's results, f32, i32, u32 or bool: an array where the form gives one. */
  run(inputs: readonly Tensor[]): Tensor | Tensor[];
  /** The gradients of the inputs numbered by `wanted`, given those of the results numbered by `used` among the float ones. */
  gradients(
    inputs: readonly Tensor[],
    dys: readonly Tensor[],
    wanted: readonly number[],
    used: readonly number[],
  ): Tensor[];
}

export interface Provider<Form> {
  readonly name: string;
  /** Throws where `form` cannot be computed on the device of the operands. Cached by form, settings and operands. */
  program(form: Form, operands: readonly Operand[], settings: object): Program;
}
