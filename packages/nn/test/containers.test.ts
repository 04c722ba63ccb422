import { add, cast, type Module, manualSeed, parameter, sumRows, type Tensor, tensor } from "@kindling/core";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  BatchNorm1d,
  Flatten,
  Identity,
  Linear,
  ModuleDict,
  ModuleList,
  ParameterDict,
  ParameterList,
  ReLU,
  Residual,
  Sequential,
  type UnaryModule,
  Unflatten,
} from "../src/index.ts";

await testDevice();
const keys = (module: Module): string[] => Object.keys(module.stateDict());
const values = (size: number, shape: number[]): Tensor => tensor(randomValues(size), { shape });

describe("Sequential", () => {
  it("applies its modules in order, under PyTorch's keys", async () => {
    const model = new Sequential(new Linear(3, 4), new ReLU(), new Linear(4, 2, { bias: false }));
    expect(keys(model)).toEqual(["0.weight", "0.bias", "2.weight"]);
    const x = values(6, [2, 3]);
    const [a, b, c] = model;
    expect(mixedError(await model.forward(x).data(), await c!.forward(b!.forward(a!.forward(x))).data())).toBe(0);
    expect([model.length, model.at(-1), model[1]]).toEqual([3, c, b]);
    model.append(new Identity()).extend([new Linear(2, 1)]);
    expect(keys(model).slice(-2)).toEqual(["4.weight", "4.bias"]);
    expect(model.forward(x).shape).toEqual([2, 1]);
    expect(() => model.at(5)).toThrow("Sequential: index 5, expected a whole number from -5 to 4");
  });

  it("takes names, which are properties too", () => {
    const model = new Sequential({ first: new Linear(3, 4), norm: new BatchNorm1d(4) });
    expect(keys(model)).toEqual([
      ...["first.weight", "first.bias", "norm.weight", "norm.bias"],
      ...["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"],
    ]);
    expect((model as unknown as { first: Module }).first).toBe(model.at(0));
    expect(model.append(new ReLU()).children().length).toBe(3);
    expect(new Sequential().forward(values(2, [2])).shape).toEqual([2]);
  });

  it("trains, converts and prints as a whole", async () => {
    const model = new Sequential(new Linear(3, 4), new Sequential(new ReLU()));
    model.forward(values(6, [2, 3])).backward(values(8, [2, 4]));
    expect(model.parameters().every((p) => p.grad)).toBe(true);
    expect(model.eval().at(1).training).toBe(false);
    expect(String(model)).toBe(
      [
        "Sequential(",
        "  (0): Linear(inFeatures=3, outFeatures=4, bias=true, backend=kernels)",
        "  (1): Sequential(",
        "    (0): ReLU(backend=kernels)",
        "  )",
        ")",
      ].join("\n"),
    );
  });

  it("names what is wrong", () => {
    const layer = new ReLU();
    expect(() => new Sequential(layer, 3 as never)).toThrow("Sequential: module 1 is 3, expected a Module");
    expect(() => new Sequential({ a: Math.abs as never })).toThrow('module "a" is the function abs, expected a Module');
    expect(() => new Sequential({ "a.b": layer })).toThrow(
      'Sequential: "a.b" cannot be a name; expected one without dots',
    );
    expect(() => new Sequential({ forward: layer })).toThrow("the class Sequential has a member of that name");
    expect(() => new Sequential({ training: layer })).toThrow("the class Sequential has a member of that name");
  });
});

describe("ModuleList", () => {
  it("holds modules under numbers", () => {
    const list = new ModuleList<UnaryModule>([new Linear(2, 2), new Linear(2, 3)]);
    list.insert(1, new Identity()).insert(3, new Linear(3, 1));
    expect(keys(list)).toEqual(["0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]);
    expect([...list].map((m) => m.constructor.name)).toEqual(["Linear", "Identity", "Linear", "Linear"]);
    expect(() => list.insert(9, new Identity())).toThrow("ModuleList: index 9, expected a whole number from -4 to 3");
    expect(() => list.append(null as never)).toThrow("ModuleList: module 4 is null, expected a Module");
    expect([new ModuleList().length, String(new ModuleList())]).toEqual([0, "ModuleList()"]);
  });

  it("prints equal modules once", () => {
    const list = new ModuleList([new ReLU(), new ReLU(), new Identity()]);
    expect(String(list)).toBe("ModuleList(\n  (0-1): 2 x ReLU(backend=kernels)\n  (2): Identity()\n)");
  });
});

describe("ModuleDict", () => {
  it("holds modules under names", () => {
    const dict = new ModuleDict({ a: new Linear(2, 2, { bias: false }), act: new ReLU() });
    dict.set("b", new Linear(2, 3, { bias: false }));
    expect([dict.keys(), dict.length, dict.has("b"), dict.has("c")]).toEqual([["a", "act", "b"], 3, true, false]);
    expect(keys(dict)).toEqual(["a.weight", "b.weight"]);
    expect([...dict].map(([name, m]) => [name, m.constructor.name])).toEqual(
      dict.entries().map(([n, m]) => [n, m.constructor.name]),
    );
    expect(dict.pop("a").constructor.name).toBe("Linear");
    expect(dict.values().length).toBe(2);
    expect(() => dict.get("a")).toThrow('ModuleDict: no module is called "a"; there are act, b');
    expect(() => dict.set("keys", new ReLU())).toThrow("the class ModuleDict has a member of that name");
    expect(() => dict.set("training", new ReLU())).toThrow("the class ModuleDict has a member of that name");
    expect(new ModuleDict([["x", new ReLU()]]).keys()).toEqual(["x"]);
  });
});

describe("ParameterList and ParameterDict", () => {
  it("hold parameters under numbers and names", () => {
    const [a, b] = [tensor([1, 2]), parameter(tensor([3]))];
    const list = new ParameterList([a, b]).append(a);
    expect([keys(list), list.length, list.at(-2), list[0]]).toEqual([["0", "1", "2"], 3, b, a]);
    expect([a.role, a.requiresGrad, [...list].length, list.parameters().length]).toEqual(["parameter", true, 3, 2]);
    const dict = new ParameterDict({ a }).set("b", b);
    expect([keys(dict), dict.get("b"), dict.length, [...dict].map(([name]) => name)]).toEqual([
      ["a", "b"],
      b,
      2,
      ["a", "b"],
    ]);
    expect(() => list.append(3 as never)).toThrow("ParameterList: parameter 3 is 3, expected a Tensor");
    expect(() => list.at(3)).toThrow("ParameterList: index 3, expected a whole number from -3 to 2");
    expect(() => dict.get("c")).toThrow('ParameterDict: no parameter is called "c"; there are a, b');
    expect(() => dict.set("training", a)).toThrow("the class ParameterDict has a member of that name");
  });
});

describe("Identity, Residual, Flatten, Unflatten", () => {
  it("pass on, add, and change shapes with their gradients", async () => {
    const x = values(24, [2, 3, 4]);
    x.requiresGrad = true;
    expect(new Identity(54, { unused: true }).forward(x)).toBe(x);
    manualSeed(3);
    const residual = new Residual(new Linear(4, 4));
    expect(keys(residual)).toEqual(["module.weight", "module.bias"]);
    expect(mixedError(await residual.forward(x).data(), await add(x, residual.module.forward(x)).data())).toBe(0);
    expect(() => new Residual(new Linear(4, 3)).forward(x)).toThrow(
      "Residual: the module makes [2,3,3] of [2,3,4], expected the same shape",
    );
    const flat = new Flatten().forward(x);
    expect(flat.shape).toEqual([2, 12]);
    flat.backward(values(24, [2, 12]));
    expect(x.grad!.shape).toEqual([2, 3, 4]);
    expect(new Flatten({ startDim: 0 }).forward(x).shape).toEqual([24]);
    expect(new Flatten({ startDim: 0, endDim: -2 }).forward(x).shape).toEqual([6, 4]);
    expect(new Flatten({ startDim: 0 }).forward(sumRows(x, [], "f32")).shape).toEqual([1]);
    expect(new Unflatten(1, [-1, 3]).forward(x).shape).toEqual([2, 1, 3, 4]);
    expect(new Unflatten(-1, [2, 2]).forward(cast(x, "f32")).shape).toEqual([2, 3, 2, 2]);
    expect([String(new Flatten()), String(new Unflatten(1, [2, 3])), String(new Identity())]).toEqual([
      ...["Flatten(startDim=1, endDim=-1)", "Unflatten(dim=1, unflattenedSize=[2,3])", "Identity()"],
    ]);
    expect(() => new Flatten({ startDim: 2, endDim: 1 }).forward(x)).toThrow(
      "Flatten: startDim 2 comes after endDim 1 in shape [2,3,4]",
    );
    expect(() => new Flatten({ endDim: 3 }).forward(x)).toThrow(
      "Flatten: endDim is 3, expected a whole number from -3 to 2 for 3 axes",
    );
    expect(() => new Unflatten(1, [2, 2]).forward(x)).toThrow(
      "Unflatten: axis 1 of [2,3,4] has size 3, expected that of [2,2]",
    );
    expect(() => new Unflatten(1, [0])).toThrow("Unflatten: unflattenedSize is [0], expected whole numbers ≥ 1");
  });
});
