import {
  add,
  buffer,
  full,
  isModule,
  Module,
  mul,
  ones,
  parameter,
  scope,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";

/** The half type, or what stands in for it on a GPU without. */
const half = (await testDevice()).features.has("shader-f16") ? "f16" : "f32";

class Scale extends Module {
  weight: Tensor = parameter(ones([2]));
  count: Tensor = buffer(zeros([1]));
  scratch: Tensor = zeros([1]);
  forward(x: Tensor): Tensor {
    return mul(x, this.weight);
  }
}

class Net extends Module {
  first = new Scale();
  layers = [new Scale(), new Scale()];
  tied: Tensor = this.first.weight;
  forward(x: Tensor): Tensor {
    return add(x, this.first.forward(x));
  }
}

describe("Module", () => {
  it("finds parameters, buffers and children by walking its fields", () => {
    const net = new Net();
    expect([...net.namedParameters()].map(([name]) => name)).toEqual(["tied", "layers.0.weight", "layers.1.weight"]);
    expect([...net.namedBuffers()].map(([name]) => name)).toEqual(["first.count", "layers.0.count", "layers.1.count"]);
    expect(Object.keys(net.stateDict())).toContain("first.weight"); // shared ones under each of their names
    expect([...net.modules()]).toHaveLength(4);
    expect(isModule(net) && !isModule({})).toBe(true);
  });

  it("loads a state dict, or says everything that is wrong with it and changes nothing", async () => {
    const [a, b] = [new Scale(), new Scale()];
    const state = { weight: tensor([5, 6]), count: tensor([3]) };
    expect(a.loadStateDict(state)).toEqual({ missingKeys: [], unexpectedKeys: [] });
    expect(await a.weight.array()).toEqual([5, 6]);
    expect(() => b.loadStateDict({ weight: tensor([1, 2, 3]), other: tensor([1]) })).toThrow(
      "weight has shape [3], expected [2]; missing: count; unexpected: other",
    );
    expect(await b.weight.array()).toEqual([1, 1]);
    expect(b.loadStateDict({ weight: tensor([7, 7], { dtype: half }) }, { strict: false })).toEqual({
      missingKeys: ["count"],
      unexpectedKeys: [],
    });
    expect(await b.weight.array()).toEqual([7, 7]);
  });

  it("switches modes, freezes, converts and frees", async () => {
    const net = new Net();
    net.eval();
    expect(net.layers[1]!.training).toBe(false);
    net.train();
    expect(net.layers[1]!.training).toBe(true);
    net.requiresGrad_(false);
    expect(net.parameters()).toHaveLength(3);
    expect(net.forward(ones([2])).requiresGrad).toBe(false);
    const scale = new Scale().to(half);
    expect([scale.weight.dtype, scale.weight.role, scale.weight.requiresGrad, scale.count.dtype]).toEqual([
      half,
      "parameter",
      true,
      half,
    ]);
    scale.dispose();
    expect(scale.weight.disposed).toBe(true);
  });

  it("outlives the scope it was made in", async () => {
    const net = scope(() => new Net());
    expect(await net.layers[0]!.weight.array()).toEqual([1, 1]);
  });

  it("prints as PyTorch prints modules", () => {
    expect(new Net().toString()).toBe("Net(\n  (first): Scale()\n  (layers.0): Scale()\n  (layers.1): Scale()\n)");
    class Named extends Net {
      protected override extraRepr(): string {
        return "own=1";
      }
    }
    expect(new Named().toString()).toContain("Named(\n  own=1\n  (first): Scale()\n");
  });

  it("clears gradients", () => {
    const s = new Scale();
    s.forward(full([2], 3)).backward(ones([2]));
    expect(s.weight.grad).not.toBeNull();
    s.zeroGrad();
    expect(s.weight.grad).toBeNull();
  });
});
