// Step 3: what would become of every layer, asked again after each change.

import { debounced, newestOnly } from "../store.js";
import { usableChoices } from "./calibrations.js";

const WAIT_MS = 150;

/** What becomes of text encoders: nothing where the layout leaves them out. */
export const textEncoderOf = ({ layout, text_encoder: chosen }) => (layout === "diffusion-model" ? null : chosen);

/** The body of a request for a plan: choices without those that belong to the conversion. */
export function planRequest(source, choices) {
  const { output_name: _, overwrite: __, ...wanted } = choices;
  return { source, ...wanted, text_encoder: textEncoderOf(choices), budget: wanted.budget.trim() || null };
}

/** Keeps `state.plan` in step with source and choices. */
export function createPlans({ store, client, textOf, select }) {
  const ask = newestOnly((source, choices) => client.plan(planRequest(source, choices)));

  async function replan() {
    const { source, headers } = store.state;
    if (!source) return;
    // The header tells whether there is anything to plan.
    const { pending, convertible } = headers[source] ?? {};
    if (pending) {
      soon();
      return;
    }
    if (convertible === false) {
      store.set({ planning: false });
      return;
    }
    try {
      const plan = await ask(source, usableChoices(store.state));
      if (plan && store.state.source === source) store.set({ plan, planError: null, planning: false });
    } catch (error) {
      if (store.state.source === source) store.set({ planError: textOf(error), planning: false });
    }
  }

  const soon = debounced(replan, WAIT_MS);

  function refresh() {
    if (!store.state.source) return;
    store.set({ planning: true });
    soon();
  }

  /** Pin layers to a policy, RELEASED or AS_RECIPE. */
  function pin(modules, wanted) {
    const { choices, planning } = store.state;
    // A plan that is being made anew does not tell any more what the recipe pins.
    const layers = (!planning && currentPlan(store.state)?.layers) || [];
    select({ pins: pinsAfter(choices.pins, layers, modules, wanted) });
  }

  function chooseRecipe(id) {
    select({ recipe: id, pins: withoutReleases(store.state.choices.pins) });
  }

  async function save(name) {
    const wanted = planRequest(store.state.source, usableChoices(store.state));
    const { id } = await client.saveRecipe(name, wanted);
    await options();
    return id;
  }

  /** It is left before it is deleted: a plan that is being asked for meanwhile must not name it. */
  async function removeRecipe(id) {
    if (store.state.choices.recipe === id) chooseRecipe("auto");
    await client.deleteRecipe(id);
    await options();
  }

  /** One that is being measured is refused, and stays chosen. */
  async function removeSensitivity(name) {
    await client.deleteSensitivity(name);
    if (store.state.choices.sensitivity === name) select({ sensitivity: null });
    await options();
  }

  /** What can be chosen: recipes, policies, roundings, layouts, measured sensitivities. */
  async function options() {
    try {
      const [recipes, { sensitivities }] = await Promise.all([client.recipes(), client.sensitivities()]);
      store.set({ options: { ...recipes, sensitivities }, optionsError: null });
    } catch (error) {
      store.set({ optionsError: textOf(error) });
    }
  }

  return { refresh, pin, chooseRecipe, save, removeRecipe, removeSensitivity, options };
}

/** The plan of what is chosen, null where there is none yet or it was refused: `state.plan` is then one of other choices. */
export const currentPlan = ({ plan, planError }) => (planError ? null : plan);

/** The layers that can be pinned: all of the plan's, of a refused one's those pinned by hand, which can be released. */
export function pinnableLayers({ plan, planError, choices: { pins } }) {
  const layers = plan?.layers ?? [];
  return planError ? layers.filter(({ module }) => module in pins) : layers;
}

/** What a layer may be pinned to besides a policy: nothing, or what the recipe itself pins it to. */
export const RELEASED = "";
export const AS_RECIPE = "recipe";

/** What a layer of the plan is pinned to: a policy by hand, AS_RECIPE by the recipe, or RELEASED. */
export function pinOf(layer, pins) {
  if (layer.module in pins) return pins[layer.module] ?? RELEASED;
  return layer.pinned ? AS_RECIPE : RELEASED;
}

/** The pins by hand after some layers' were changed. A layer that the recipe pins is released by null. */
export function pinsAfter(pins, layers, modules, wanted) {
  const byRecipe = new Set(layers.filter((layer) => pinOf(layer, pins) === AS_RECIPE).map(({ module }) => module));
  const after = { ...pins };
  for (const module of modules) {
    if (wanted !== RELEASED && wanted !== AS_RECIPE) after[module] = wanted;
    else if (wanted === RELEASED && (byRecipe.has(module) || pins[module] === null)) after[module] = null;
    else delete after[module];
  }
  return after;
}

/** Pins without the releases, which belong to the recipe that pins the layers. */
export const withoutReleases = (pins) => Object.fromEntries(Object.entries(pins).filter(([, policy]) => policy !== null));

/** Layers by block or by type, in the plan's order: [{key, layers}]. `other` names those outside of blocks. */
export function grouped(layers, by, other) {
  const groups = new Map();
  for (const layer of layers) {
    const key = (by === "block" ? layer.block : layer.kind) || other;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(layer);
  }
  return [...groups].map(([key, members]) => ({ key, layers: members }));
}

/**
 * How the plan's weights are rounded, that outputs are closer than weights where those are traded for them, and that
 * curvature would allow it: the method is no choice of most users, but follows from the calibration's `detail`. Where
 * none is chosen and the source has some, those are named.
 */
export function roundedText({ summary, fitting }, rounding, detail, t) {
  const found = Object.entries(summary.roundings);
  if (found.length === 0) return "";
  const methods = found.length === 1 ? [found[0][0]] : found.map(([name, count]) => `${name} ${t.number(count)}`);
  const said = t("plan.rounded", { methods: methods.join(", ") });
  const better = (rounding ?? "auto") === "auto" && detail !== "curvature" && !("gptq" in summary.roundings);
  const traded = summary.error.of === "weights" && tradedText(Object.keys(summary.roundings), t);
  const advice = fitting?.length ? t("plan.fitting", { names: fitting.join(", "), step: t("steps.calibration") }) : better && t("plan.closer");
  return [said, traded, advice].filter(Boolean).join(" ");
}

/** How close the plan stays to the source, and whether weights or outputs do. */
export function qualityText({ summary: { error } }, t) {
  return Number.isFinite(error.sqnr_db) ? t(`plan.quality.${error.of}`, { value: t.decibels(error.sqnr_db) }) : "";
}

/** How fast the file would be, and for which inputs: that decides much of it. */
export function speedText({ predicted, basis, gpu, rows, image_rows: image }, t) {
  return t(`plan.speed.${basis}`, { factor: t.number(predicted, 2), gpu, rows, image });
}

/** Methods that take more error of the weights for less error of the outputs. */
const TRADING = ["gptq", "weighted"];

/** That outputs are closer than the SQNR of the weights says, where one of these roundings makes it so. */
export function tradedText(roundings, t) {
  const methods = TRADING.filter((name) => roundings.includes(name));
  return methods.length ? t("plan.traded", { methods: methods.join(", ") }) : "";
}

/** How many layers have which format, most first: [[format, count]]. */
export function formatCounts(layers) {
  const counts = new Map();
  for (const { format } of layers) counts.set(format, (counts.get(format) ?? 0) + 1);
  return [...counts].sort(([, a], [, b]) => b - a);
}

/** The policies that every one of these layers allows. */
export function commonPolicies(layers) {
  const [first, ...others] = layers.map((layer) => layer.allowed ?? []);
  return (first ?? []).filter((policy) => others.every((allowed) => allowed.includes(policy)));
}

/** The layers of a search: every word in name, format or reason, which `told` puts into the user's language. */
export function layersMatching(layers, search, told) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const textOf = (layer) => `${layer.name} ${layer.format} ${told(layer.reason)}`.toLowerCase();
  return words.length ? layers.filter((layer) => words.every((word) => textOf(layer).includes(word))) : layers;
}
