/** A function's values become those of its derivative: backwards from its result, or forwards along with it. */
import {
  Builder,
  type Fn,
  type ForNode,
  type IfNode,
  type Item,
  isNode,
  isZero,
  type Node,
  newValue,
  Region,
  rowPrimitives,
  type Value,
} from "./ir.ts";
import { arithmetic, componentwise, conversion, linear } from "./rules.ts";
import { array, isAbstract, isDifferentiable, isFloat, scalar, type Type } from "./types.ts";

/** What the values of one region of the source have become. */
interface Scope {
  readonly parent: Scope | null;
  readonly values: Map<Value, Value>;
  readonly nodes: Map<Node, Node>;
  /** Gradients (reverse mode) or changes (forward mode). */
  readonly changes: Map<Value, Value>;
}

const scopeIn = (parent: Scope | null): Scope => ({ parent, values: new Map(), nodes: new Map(), changes: new Map() });

function find<K>(scope: Scope, from: (scope: Scope) => Map<K, K>, key: K): K | undefined {
  for (let at: Scope | null = scope; at; at = at.parent) {
    const found = from(at).get(key);
    if (found) return found;
  }
  return undefined;
}

const leaf = ({ op }: Value): boolean => op === "const" || op === "zero" || op === "global";

/** Never changes; what is of an abstract type is made of literals only. */
const constant = (value: Value): boolean => leaf(value) || isAbstract(value.type);

export interface Derived {
  readonly params: readonly Value[];
  readonly body: Region;
  readonly result: Value;
}

abstract class Derivation {
  protected readonly b: Builder = new Builder(new Region(null));
  protected readonly root: Scope = scopeIn(null);
  readonly params: Value[] = [];

  protected param(name: string, type: Type): Value {
    const value = newValue("param", type, [], { text: name });
    value.region = this.b.region;
    value.hint = name;
    this.params.push(value);
    return value;
  }

  /** The counterpart of a value of the source. */
  protected at(scope: Scope, value: Value): Value {
    if (leaf(value)) return this.b.op(value.op, value.type, [], { text: value.text });
    const found = find(scope, ({ values }) => values, value);
    if (!found) throw new Error(`autodiff: no counterpart of ${value.op} ${value.text}`);
    return found;
  }

  protected change(scope: Scope, value: Value): Value | undefined {
    return find(scope, ({ changes }) => changes, value);
  }

  protected cloneValue(scope: Scope, value: Value): Value {
    const args = value.args.map((arg) => this.at(scope, arg));
    const made = this.b.op(value.op, value.type, args, { text: value.text, at: value.at });
    if (value.hint && !made.hint) made.hint = value.hint;
    if (value.kept && made.hint === value.hint) made.kept = true;
    scope.values.set(value, made);
    return made;
  }

  /** Copies what a region computes. */
  protected clone(region: Region, scope: Scope): void {
    for (const item of region.items) {
      if (!isNode(item)) this.cloneValue(scope, item);
      else if (item.kind === "if") this.cloneIf(item, scope);
      else this.cloneFor(item, scope);
    }
  }

  private cloneIf(node: IfNode, scope: Scope): void {
    const branch = (source: Region): Region => {
      const region = new Region(this.b.region);
      const inner = scopeIn(scope);
      this.b.within(region, () => this.clone(source, inner));
      region.yields = source.yields.map((value) => this.at(inner, value));
      return region;
    };
    const made = this.b.if(this.at(scope, node.cond), branch(node.then), branch(node.else));
    this.match(scope, node, made);
  }

  private cloneFor(node: ForNode, scope: Scope): void {
    const made = this.b.loop(node.count, node.reversed, node.index.hint!);
    const inner = scopeIn(scope);
    inner.values.set(node.index, made.index);
    node.inits.forEach((init, i) => {
      const param = node.body.params[i]!;
      inner.values.set(param, this.b.carry(made, this.at(scope, init), param.hint));
    });
    this.b.within(made.body, () => this.clone(node.body, inner));
    made.body.yields = node.body.yields.map((value) => this.at(inner, value));
    this.match(scope, node, made);
  }

  private match(scope: Scope, from: Node, to: Node): void {
    scope.nodes.set(from, to);
    from.results.forEach((result, i) => {
      const made = to.results[i]!;
      if (result.hint) made.hint ??= result.hint;
      scope.values.set(result, made);
    });
  }
}

/** Names a gradient or change after what it belongs to. */
function nameAfter(change: Value, value: Value): Value {
  if (value.hint && !change.hint && !leaf(change)) change.hint = `d${value.hint}`;
  return change;
}

/** One value back: parameters, and the gradients of those in `wrt`. */
export class Reverse extends Derivation {
  derive(fn: Fn, seedName: string): Map<Value, Value> {
    for (const param of fn.params) this.root.values.set(param, this.param(param.text, param.type));
    const seed = this.param(seedName, fn.result.type);
    this.clone(fn.body, this.root);
    this.contribute(this.root, fn.result, seed);
    this.walk(fn.body, this.root);
    return new Map(fn.params.map((param) => [param, this.root.changes.get(param) ?? this.b.zero(param.type)]));
  }

  finish(result: (b: Builder) => Value): Derived {
    return { params: this.params, body: this.b.region, result: result(this.b) };
  }

  private contribute(scope: Scope, value: Value, d: Value): void {
    if (constant(value) || isZero(d) || !isDifferentiable(value.type)) return;
    const { b } = this;
    const before = this.change(scope, value);
    const typed = isFloat(value.type) && d.type.kind !== value.type.kind ? b.splat(d, value.type) : d;
    scope.changes.set(value, before ? b.add(before, typed) : typed);
  }

  private walk(region: Region, scope: Scope): void {
    for (const item of [...region.items].reverse()) {
      if (isNode(item)) {
        if (item.results.some((result) => this.active(scope, result))) {
          if (item.kind === "if") this.reverseIf(item, scope);
          else this.reverseFor(item, scope);
        }
        continue;
      }
      const d = scope.changes.get(item);
      if (d && !isZero(d)) this.reverseValue(item, nameAfter(d, item), scope);
    }
  }

  private active(scope: Scope, value: Value): boolean {
    const d = scope.changes.get(value);
    return d !== undefined && !isZero(d);
  }

  /** The gradient of an operand that may be a scalar beside vectors. */
  private fit(d: Value, type: Type): Value {
    return type.kind === "scalar" && d.type.kind === "vec" ? this.b.sum(d) : d;
  }

  private reverseValue(value: Value, d: Value, scope: Scope): void {
    const { b } = this;
    const args = value.args.map((arg) => this.at(scope, arg));
    const out = this.at(scope, value);
    const to = (i: number, gradient: Value): void => this.contribute(scope, value.args[i]!, gradient);
    const wanted = (i: number): boolean => !constant(value.args[i]!) && isDifferentiable(value.args[i]!.type);
    const base = value.args[0];
    switch (value.op) {
      case "unary":
        if (value.text === "-") to(0, b.neg(d));
        return;
      case "binary":
        if (!isFloat(value.type)) return;
        arithmetic(b, value.text, args, out).forEach((partial, i) => {
          if (wanted(i)) to(i, this.fit(partial(d), value.args[i]!.type));
        });
        return;
      case "call": {
        const joint = linear[value.text];
        if (joint) {
          joint.reverse(b, args, out, d).forEach((gradient, i) => {
            if (gradient && wanted(i)) to(i, gradient);
          });
          return;
        }
        const rule = componentwise[value.text];
        if (!rule) throw new Error(`autodiff: no derivative of ${value.text}`);
        rule(b, args, out).forEach((partial, i) => {
          if (partial && wanted(i)) to(i, this.fit(partial(d), value.args[i]!.type));
        });
        return;
      }
      case "construct":
        if (value.args.length === 1 && isFloat(value.type)) {
          const type = base!.type;
          if (type.kind === "scalar" && value.type.kind === "vec") to(0, b.sum(d));
          else if (conversion(type, value.type)) to(0, b.op("construct", type, [d]));
        } else {
          value.args.forEach((_, i) => {
            if (wanted(i)) to(i, b.extract(d, i));
          });
        }
        return;
      case "swizzle":
        [...value.text].forEach((letter, i) => {
          this.part(scope, base!, "xyzw".indexOf(letter), b.extract(d, i));
        });
        return;
      case "extract":
        if (wanted(0)) this.part(scope, base!, value.at, d);
        return;
      case "extractAt": {
        if (!wanted(0)) return;
        const whole = this.change(scope, base!) ?? b.zero(base!.type);
        const index = args[1]!;
        scope.changes.set(base!, b.insertAt(whole, index, this.sum(b.extractAt(whole, index), d)));
        return;
      }
      case "insert":
        to(1, b.extract(d, value.at));
        to(0, b.insert(d, value.at, b.zero(value.args[1]!.type)));
        return;
      case "insertAt":
        to(2, b.extractAt(d, args[1]!));
        to(0, b.insertAt(d, args[1]!, b.zero(value.args[2]!.type)));
        return;
      default:
        return;
    }
  }

  private sum(a: Value, d: Value): Value {
    return isZero(d) ? a : this.b.add(a, d);
  }

  /** Adds to one part of a gradient. */
  private part(scope: Scope, base: Value, at: number, d: Value): void {
    const { b } = this;
    if (isZero(d)) return;
    const { type } = base;
    if (type.kind === "vec") {
      const parts = Array.from({ length: type.size }, (_, i) => (i === at ? d : b.zero(scalar(type.of))));
      this.contribute(scope, base, b.op("construct", type, parts));
      return;
    }
    const whole = this.change(scope, base) ?? b.zero(type);
    scope.changes.set(base, b.insert(whole, at, this.sum(b.extract(whole, at), d)));
  }

  private reverseIf(node: IfNode, scope: Scope): void {
    const { b } = this;
    const gradients = node.results.map((result) => {
      const d = scope.changes.get(result);
      return d && nameAfter(d, result);
    });
    const branch = (source: Region): { region: Region; inner: Scope } => {
      const region = new Region(b.region);
      const inner = scopeIn(scope);
      b.within(region, () => {
        this.clone(source, inner);
        source.yields.forEach((value, i) => {
          if (gradients[i]) this.contribute(inner, value, gradients[i]);
        });
        this.walk(source, inner);
      });
      return { region, inner };
    };
    const [then, otherwise] = [branch(node.then), branch(node.else)];
    const outside = (source: Region, inner: Scope): Value[] =>
      [...inner.changes.keys()].filter((key) => !source.owns(key));
    const keys = [...new Set([...outside(node.then, then.inner), ...outside(node.else, otherwise.inner)])];
    if (keys.length === 0) return;
    for (const { region, inner } of [then, otherwise]) {
      region.yields = keys.map((key) => this.change(inner, key) ?? b.zero(key.type));
    }
    const made = b.if(this.at(scope, node.cond), then.region, otherwise.region);
    keys.forEach((key, i) => {
      scope.changes.set(key, nameAfter(b.merged(made, i), key));
    });
  }

  private reverseFor(node: ForNode, scope: Scope): void {
    const { b } = this;
    const forward = find<Node>(scope, ({ nodes }) => nodes, node) as ForNode;
    const loop = b.loop(node.count, !node.reversed, node.index.hint!);
    const inner = scopeIn(scope);
    inner.values.set(node.index, loop.index);

    const differentiable = node.body.params.filter(({ type }) => isDifferentiable(type));
    const outside = freeValues(node.body);
    const carried = new Map<Value, Value>();
    for (const param of differentiable) {
      const result = node.results[node.body.params.indexOf(param)]!;
      carried.set(param, b.carry(loop, scope.changes.get(result) ?? b.zero(param.type), gradientName(param)));
    }
    for (const value of outside) {
      carried.set(value, b.carry(loop, this.change(scope, value) ?? b.zero(value.type), gradientName(value)));
    }
    b.within(loop.body, () => {
      node.body.params.forEach((param, i) => {
        const saved = save(forward, i, b);
        const value = b.extractAt(saved, loop.index);
        if (param.hint) value.hint ??= param.hint;
        inner.values.set(param, value);
      });
      this.clone(node.body, inner);
      for (const value of outside) inner.changes.set(value, carried.get(value)!);
      // a change outside the body must not be taken for a contribution to the value within it
      node.body.yields.forEach((value, i) => {
        const gradient = carried.get(node.body.params[i]!);
        if (gradient) this.contribute(inner, value, gradient);
      });
      this.walk(node.body, inner);
    });
    loop.body.yields = [
      ...differentiable.map((param) => inner.changes.get(param) ?? b.zero(param.type)),
      ...outside.map((value) => inner.changes.get(value)!),
    ];
    outside.forEach((value, i) => {
      const at = differentiable.length + i;
      if (loop.body.yields[at] !== loop.body.params[at]) scope.changes.set(value, loop.results[at]!);
    });
    differentiable.forEach((param, i) => {
      this.contribute(scope, node.inits[node.body.params.indexOf(param)]!, loop.results[i]!);
    });
  }
}

const gradientName = ({ hint }: Value): string | undefined => hint && `d${hint}`;

/** Makes the loop store what it carries as number `i` at the start of each step; the array of all steps. */
function save(node: ForNode, i: number, b: Builder): Value {
  const param = node.body.params[i]!;
  const name = param.hint && `${param.hint}Saved`;
  const outer = node.body.parent!;
  const all = b.within(outer, () => b.carry(node, b.zero(array(param.type, node.count)), name));
  const stored = newValue("insertAt", all.type, [all, node.index, param]);
  stored.region = node.body;
  node.body.items.unshift(stored);
  node.body.yields.push(stored);
  return node.results.at(-1)!;
}

/** The differentiable values from outside that a region uses. */
function freeValues(region: Region): Value[] {
  const found = new Set<Value>();
  const use = (value: Value): void => {
    if (!constant(value) && isDifferentiable(value.type) && !region.owns(value)) found.add(value);
  };
  const visit = (inner: Region): void => {
    for (const item of inner.items) {
      if (!isNode(item)) item.args.forEach(use);
      else if (item.kind === "if") {
        visit(item.then);
        visit(item.else);
      } else {
        item.inits.forEach(use);
        visit(item.body);
      }
    }
    inner.yields.forEach(use);
  };
  visit(region);
  return [...found];
}

/** The change of the result from changes of the parameters in `wrt`. */
export class Forward extends Derivation {
  derive(fn: Fn, wrt: readonly string[], nameOf: (param: string) => string): Derived {
    for (const param of fn.params) this.root.values.set(param, this.param(param.text, param.type));
    for (const param of fn.params) {
      if (wrt.includes(param.text)) this.root.changes.set(param, this.param(nameOf(param.text), param.type));
    }
    this.walk(fn.body, this.root);
    const result = this.change(this.root, fn.result) ?? this.b.zero(fn.result.type);
    return { params: this.params, body: this.b.region, result };
  }

  private walk(region: Region, scope: Scope): void {
    for (const item of region.items) this.item(item, scope);
  }

  private item(item: Item, scope: Scope): void {
    if (isNode(item)) {
      if (item.kind === "if") this.forwardIf(item, scope);
      else this.forwardFor(item, scope);
      return;
    }
    const out = this.cloneValue(scope, item);
    const changes = item.args.map((arg) => this.change(scope, arg));
    if (!isDifferentiable(item.type) || changes.every((change) => change === undefined)) return;
    const change = this.forwardValue(
      item,
      item.args.map((arg) => this.at(scope, arg)),
      out,
      changes,
    );
    if (change && !isZero(change)) scope.changes.set(item, nameAfter(change, item));
  }

  private forwardValue(
    value: Value,
    args: readonly Value[],
    out: Value,
    changes: readonly (Value | undefined)[],
  ): Value | undefined {
    const { b } = this;
    const [first] = changes;
    const whole = (i: number): Value => changes[i] ?? b.zero(value.args[i]!.type);
    switch (value.op) {
      case "unary":
        return value.text === "-" ? b.neg(first!) : undefined;
      case "binary": {
        const terms = arithmetic(b, value.text, args, out).flatMap((partial, i) =>
          changes[i] ? [partial(changes[i])] : [],
        );
        return b.splat(
          terms.reduce((x, y) => b.add(x, y)),
          value.type,
        );
      }
      case "call": {
        const joint = linear[value.text];
        if (joint) return joint.forward(b, args, out, changes);
        const rule = componentwise[value.text];
        if (!rule) throw new Error(`autodiff: no derivative of ${value.text}`);
        const terms = rule(b, args, out).flatMap((partial, i) => (partial && changes[i] ? [partial(changes[i])] : []));
        return terms.length
          ? b.splat(
              terms.reduce((x, y) => b.add(x, y)),
              value.type,
            )
          : undefined;
      }
      case "construct":
        if (value.args.length === 1 && isFloat(value.type)) {
          if (value.type.kind === "vec" && value.args[0]!.type.kind === "scalar") return b.splat(first!, value.type);
          return conversion(value.args[0]!.type, value.type) ? b.op("construct", value.type, [first!]) : undefined;
        }
        if (value.type.kind === "vec")
          return b.vector(
            value.type,
            value.args.map((_, i) => whole(i)),
          );
        return b.op(
          "construct",
          value.type,
          value.args.map((_, i) => whole(i)),
        );
      case "swizzle":
        return b.op("swizzle", value.type, [first!], { text: value.text });
      case "extract":
        return b.extract(first!, value.at);
      case "extractAt":
        return b.extractAt(first!, args[1]!);
      case "insert":
        return b.insert(whole(0), value.at, whole(1));
      case "insertAt":
        return b.insertAt(whole(0), args[1]!, whole(2));
      default:
        return undefined;
    }
  }

  private forwardIf(node: IfNode, scope: Scope): void {
    const { b } = this;
    const branch = (source: Region): { region: Region; inner: Scope } => {
      const region = new Region(b.region);
      const inner = scopeIn(scope);
      b.within(region, () => this.walk(source, inner));
      return { region, inner };
    };
    const [then, otherwise] = [branch(node.then), branch(node.else)];
    const active = node.results.map((_, i) => {
      return this.change(then.inner, node.then.yields[i]!) ?? this.change(otherwise.inner, node.else.yields[i]!);
    });
    const finish = ({ region, inner }: { region: Region; inner: Scope }, source: Region): void => {
      const changes = source.yields.flatMap((value, i) =>
        active[i] ? [this.change(inner, value) ?? b.zero(node.results[i]!.type)] : [],
      );
      region.yields = [...source.yields.map((value) => this.at(inner, value)), ...changes];
    };
    finish(then, node.then);
    finish(otherwise, node.else);
    const made = b.if(this.at(scope, node.cond), then.region, otherwise.region);
    let at = node.results.length;
    node.results.forEach((result, i) => {
      const value = made.results[i]!;
      if (result.hint) value.hint ??= result.hint;
      scope.values.set(result, value);
      if (active[i]) scope.changes.set(result, nameAfter(b.merged(made, at++), result));
    });
  }

  private forwardFor(node: ForNode, scope: Scope): void {
    const { b } = this;
    // Which carried values change is known once the body is derived; what it finds may make more of them change.
    let active = new Set(node.body.params.filter((_, i) => this.change(scope, node.inits[i]!)));
    for (;;) {
      const { items } = b.region;
      const start = items.length;
      const loop = b.loop(node.count, node.reversed, node.index.hint!);
      const inner = scopeIn(scope);
      inner.values.set(node.index, loop.index);
      node.body.params.forEach((param, i) => {
        inner.values.set(param, b.carry(loop, this.at(scope, node.inits[i]!), param.hint));
      });
      for (const param of active) {
        const init = node.inits[node.body.params.indexOf(param)]!;
        inner.changes.set(param, b.carry(loop, this.change(scope, init) ?? b.zero(param.type), gradientName(param)));
      }
      b.within(loop.body, () => this.walk(node.body, inner));
      const found = node.body.params.filter((_, i) => this.change(inner, node.body.yields[i]!));
      if (found.some((param) => !active.has(param))) {
        active = new Set([...active, ...found]);
        items.length = start;
        continue;
      }
      loop.body.yields = [
        ...node.body.yields.map((value) => this.at(inner, value)),
        ...[...active].map((param) => {
          const value = node.body.yields[node.body.params.indexOf(param)]!;
          return this.change(inner, value) ?? b.zero(param.type);
        }),
      ];
      node.results.forEach((result, i) => {
        if (result.hint) loop.results[i]!.hint ??= result.hint;
        scope.values.set(result, loop.results[i]!);
      });
      [...active].forEach((param, i) => {
        const result = node.results[node.body.params.indexOf(param)]!;
        scope.changes.set(result, loop.results[node.results.length + i]!);
      });
      return;
    }
  }
}

/** A reduction across a row, or a scan along it: of `arg`, whose elements are those of `result`. */
export interface Reduction {
  readonly primitive: string;
  readonly arg: Value;
  /** What stands for it in the rest of the function: a parameter. */
  readonly result: Value;
}

/** A function with what works across a row cut out. */
export class Cut extends Derivation {
  /** In an order in which each needs only earlier ones. */
  readonly reductions: Reduction[] = [];
  readonly result: Value;

  constructor({ params, body, result }: Derived) {
    super();
    for (const param of params) this.root.values.set(param, this.param(param.text, param.type));
    this.clone(body, this.root);
    this.result = this.at(this.root, result);
  }

  get body(): Region {
    return this.b.region;
  }

  protected override cloneValue(scope: Scope, value: Value): Value {
    if (value.op !== "call" || !rowPrimitives.has(value.text)) return super.cloneValue(scope, value);
    const arg = this.at(scope, value.args[0]!);
    const known = this.reductions.find((other) => other.primitive === value.text && other.arg === arg);
    const result = known?.result ?? this.param(value.hint ?? value.text, value.type);
    if (!known) this.reductions.push({ primitive: value.text, arg, result });
    scope.values.set(value, result);
    return result;
  }

  /** The parameters, reductions among them, that some values need. */
  needs(values: readonly Value[]): Set<Value> {
    const seen = new Set<Value>();
    const open = [...values];
    for (let at = open.pop(); at; at = open.pop()) {
      if (seen.has(at)) continue;
      seen.add(at);
      open.push(...at.args);
      const { node } = at;
      if (node?.kind === "if") open.push(node.cond, node.then.yields[at.at]!, node.else.yields[at.at]!);
      // what one carried value needs, another may too
      if (node?.kind === "for") open.push(...node.inits, ...node.body.yields);
    }
    return new Set(this.params.filter((param) => seen.has(param)));
  }
}
