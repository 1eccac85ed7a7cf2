// The plan's controls: recipe, budget, and what most people leave as it is.

import { debounced } from "../store.js";
import { h } from "../dom.js";
import { AS_RECIPE, currentPlan, pinOf, RELEASED, withoutReleases } from "../model/plans.js";
import { sensitivitiesOf } from "../model/sensitivities.js";
import { button, checkField, disclosure, selectField, textField } from "./controls.js";
import { measurePart } from "./measure.js";

const TYPING_MS = 500;
const AUTO = "auto";

/** {element, update(state)}. */
export function planOptions(session) {
  const { t, select, plans, host, attempt, store } = session;
  const recipe = selectField(t("plan.recipe"), plans.chooseRecipe);
  const budget = textField(t("plan.budget"), debounced((text) => select({ budget: text }), TYPING_MS), {
    placeholder: "size<=12GB",
    help: t("plan.budgetHelp"),
  });
  const sensitivity = selectField(t("plan.sensitivity"), (value) => select({ sensitivity: value || null }));
  const rounding = selectField(t("plan.rounding"), (value) => select({ rounding: value }));
  const inputScale = selectField(t("plan.inputScale"), (value) => select({ input_scale: value }));
  const layout = selectField(t("plan.layout"), (value) => select({ layout: value }));
  const textEncoder = selectField(t("plan.textEncoder"), (value) => select({ text_encoder: value }));
  const preQuant = selectField(t("plan.preQuant"), (value) => select({ pre_quant: value }));
  const gain = checkField(t("plan.gain"), (checked) => select({ gain: checked }), t("plan.gainHelp"));
  const kernels = selectField(t("plan.kernels"), (value) => select({ kernels: value || null }));
  const save = button(t("plan.save"), () => saveAs(""), { symbol: "save" });
  const erase = button(t("plan.deleteRecipe"), deleteRecipe, { kind: "danger", symbol: "trash" });
  const unpin = button(t("plan.unpin"), () => plans.pin(pinnedLayers(store.state), RELEASED), { symbol: "undo" });
  const measure = measurePart(session, () => sensitivity.control.focus());
  const fields = [rounding, inputScale, preQuant, gain, layout, textEncoder, kernels];
  const more = disclosure(t("plan.more"), fields.map((field) => field.element));
  const element = h("div", { class: "nvfp4-stack" }, recipe.element, budget.element, sensitivity.element, measure.element, more, h("div", { class: "nvfp4-row" }, save, unpin, erase));

  /** By hand and, once a plan tells, by the recipe. */
  function pinnedLayers(state) {
    const { pins } = state.choices;
    const byRecipe = (currentPlan(state)?.layers ?? []).filter((layer) => pinOf(layer, pins) === AS_RECIPE);
    return [...Object.keys(withoutReleases(pins)), ...byRecipe.map(({ module }) => module)];
  }

  /** Asks again, with what was typed, until the server takes the name or the user gives up. */
  async function saveAs(typed) {
    const name = await host.ask(t("plan.saveTitle"), t("plan.saveQuestion"), typed);
    if (!name) return;
    const id = await attempt(() => plans.save(name));
    if (id) host.toast("success", t("plan.saved", { name: id }));
    else await saveAs(name);
  }

  async function deleteRecipe() {
    const id = store.state.choices.recipe;
    if (await host.confirmDelete(t("plan.deleteTitle"), t("plan.deleteQuestion"), [id])) await attempt(() => plans.removeRecipe(id));
  }

  function update(state) {
    const { options, choices, source } = state;
    if (!options) return;
    const mine = options.recipes.filter((entry) => entry.mine);
    const builtIn = options.recipes.filter((entry) => !entry.mine);
    const problem = mine.find((entry) => entry.id === choices.recipe)?.problem;
    const recipeHelp = choices.recipe === AUTO ? t("plan.autoHelp") : t.told(problem);
    const named = [...mine, ...builtIn].map(({ id, title }) => [id, title && title !== id ? `${id} – ${t.told(title)}` : id]);
    recipe.update([[AUTO, t("plan.auto")], ...named], choices.recipe, recipeHelp);
    const of = (help, chosen, fallback) => [Object.keys(help).map((key) => [key, key]), chosen ?? fallback, t.told(help[chosen ?? fallback])];
    rounding.update(...of(options.roundings, choices.rounding, options.defaults.rounding));
    inputScale.update(...of(options.input_scales, choices.input_scale, options.defaults.input_scale));
    layout.update(options.layouts.map((key) => [key, t.has(`plan.layouts.${key}`) ? t(`plan.layouts.${key}`) : key]), choices.layout ?? options.defaults.layout);
    textEncoder.element.hidden = !state.headers[source]?.all_in_one || choices.layout === "diffusion-model";
    textEncoder.update(...of(options.text_encoders, choices.text_encoder, options.defaults.text_encoder));
    const budgeted = choices.budget.trim() !== "";
    preQuant.update(...of(options.pre_quants, choices.pre_quant, options.defaults.pre_quant));
    gain.update(choices.gain);
    // A budget decides both by measured errors. What was chosen before it can be taken back, and the plan says so.
    preQuant.control.disabled = budgeted && (choices.pre_quant ?? options.defaults.pre_quant) === options.defaults.pre_quant;
    gain.control.disabled = budgeted && !choices.gain;
    kernels.element.hidden = choices.sensitivity !== null; // it was measured with a table of its own
    kernels.update([["", t("plan.auto")], ...Object.entries(options.kernels)], choices.kernels ?? "");
    const measured = sensitivitiesOf(options.sensitivities, source);
    measure.update(state);
    sensitivity.update([["", t("plan.noSensitivity")], ...measured.map(({ name }) => [name, name])], choices.sensitivity ?? "", t("plan.sensitivityHelp"));
    budget.update(choices.budget);
    const pinned = pinnedLayers(state).length;
    unpin.hidden = pinned === 0;
    unpin.setLabel(t("plan.unpin", { count: pinned }));
    erase.hidden = !mine.some((entry) => entry.id === choices.recipe);
  }

  return { element, update };
}
