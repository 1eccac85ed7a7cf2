// The plan's controls: recipe, budget, and what most people leave as it is.

import { debounced } from "../store.js";
import { h } from "../dom.js";
import { sensitivitiesOf } from "../model/sensitivities.js";
import { button, disclosure, selectField, textField } from "./controls.js";
import { measurePart } from "./measure.js";

const TYPING_MS = 500;
const AUTO = "auto";

/** {element, update(state)}. */
export function planOptions(session) {
  const { t, select, plans, host, attempt, store } = session;
  const recipe = selectField(t("plan.recipe"), (value) => select({ recipe: value }));
  const budget = textField(t("plan.budget"), debounced((text) => select({ budget: text }), TYPING_MS), {
    placeholder: "size<=12GB",
    help: t("plan.budgetHelp"),
  });
  const sensitivity = selectField(t("plan.sensitivity"), (value) => select({ sensitivity: value || null }));
  const rounding = selectField(t("plan.rounding"), (value) => select({ rounding: value }));
  const inputScale = selectField(t("plan.inputScale"), (value) => select({ input_scale: value }));
  const layout = selectField(t("plan.layout"), (value) => select({ layout: value }));
  const save = button(t("plan.save"), saveAs, { symbol: "save" });
  const erase = button(t("plan.deleteRecipe"), deleteRecipe, { kind: "danger", symbol: "trash" });
  const unpin = button(t("plan.unpin"), () => select({ pins: {} }), { symbol: "undo" });
  const measure = measurePart(session);
  const more = disclosure(t("plan.more"), rounding.element, inputScale.element, layout.element);
  const element = h("div", { class: "nvfp4-stack" }, recipe.element, budget.element, sensitivity.element, measure.element, more, h("div", { class: "nvfp4-row" }, save, unpin, erase));

  async function saveAs() {
    const name = await host.ask(t("plan.saveTitle"), t("plan.saveQuestion"), "");
    if (!name) return;
    await attempt(async () => {
      const id = await plans.save(name);
      host.toast("success", t("plan.saved", { name: id }));
    });
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
    const measured = sensitivitiesOf(options.sensitivities, source);
    measure.update(state);
    sensitivity.update([["", t("plan.noSensitivity")], ...measured.map(({ name }) => [name, name])], choices.sensitivity ?? "", t("plan.sensitivityHelp"));
    budget.update(choices.budget);
    const pinned = Object.keys(choices.pins).length;
    unpin.hidden = pinned === 0;
    unpin.setLabel(t("plan.unpin", { count: pinned }));
    erase.hidden = !mine.some((entry) => entry.id === choices.recipe);
  }

  return { element, update };
}
