/** Trains a small model on what `init` opens and prints, in one line, how that went. For node/none.test.ts. */
import { relu } from "@kindling/activations";
import { defaultDevice, init, tensor } from "@kindling/core";
import { mse } from "@kindling/losses";
import { AdamW } from "@kindling/optim";
import { Linear } from "../../src/index.ts";

const warnings: string[] = [];
console.warn = (text: string) => warnings.push(text);

const refused = await init({ backend: "webgpu" }).then(
  () => "",
  (error: Error) => error.message,
);
await init();
await init();
const [hidden, output] = [new Linear(2, 16, { activation: relu }), new Linear(16, 1)];
const optimizer = new AdamW([...hidden.parameters(), ...output.parameters()], { lr: 0.02 });
const x = tensor([
  [0, 0],
  [0, 1],
  [1, 0],
  [1, 1],
]);
const y = tensor([[0], [1], [1], [0]]);
const losses: number[] = [];
for (let step = 0; step < 100; step++) {
  optimizer.zeroGrad();
  const loss = mse(output.forward(hidden.forward(x)), y);
  loss.backward();
  optimizer.step();
  losses.push(await loss.item());
}
console.log(JSON.stringify({ device: defaultDevice().name, losses, warnings, refused }));
