export { Adam, type AdamOptions, type AdamSettings, AdamW } from "./adam.ts";
export type { OptimizerState, ParamGroup, Params, Settings } from "./groups.ts";
export { clipGradNorm } from "./norm.ts";
export { Optimizer } from "./optimizer.ts";
export { GradScaler, type GradScalerOptions, type GradScalerState } from "./scaler.ts";
export {
  CosineAnnealingLR,
  type Lambda,
  LambdaLR,
  LinearLR,
  LRScheduler,
  type Scheduled,
  type SchedulerState,
  SequentialLR,
} from "./schedulers.ts";
export { SGD, type SGDOptions, type SGDSettings } from "./sgd.ts";
