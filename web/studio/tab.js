// The sidebar tab: heading, steps, what runs, and the step that is open.

import { h, setAttribute, setText } from "./dom.js";
import { button, icon, iconButton } from "./parts/controls.js";
import { runningTexts, shareOf } from "./parts/jobs.js";
import { progressBar } from "./parts/meters.js";
import { STEPS } from "./session.js";
import { calibrationStep } from "./steps/calibration.js";
import { convertStep } from "./steps/convert.js";
import { planStep } from "./steps/plan.js";
import { resultStep } from "./steps/result.js";
import { sourceStep } from "./steps/source.js";

const VIEWS = { source: sourceStep, calibration: calibrationStep, plan: planStep, convert: convertStep, result: resultStep };
const WITHOUT_NAME = ["source", "result"];

/** The tab's element with its life: {element, destroy()}. */
export function createTab(session) {
  const { t, store, refresh } = session;
  const steps = stepper(session);
  const strip = runningStrip(session);
  const chosen = h("p", { class: "nvfp4-chosen" });
  const content = h("div", { class: "nvfp4-content", tabindex: "-1" });
  const spoken = h("p", { class: "nvfp4-hidden", role: "status" });
  const next = button("", () => walk(1), { kind: "primary" });
  next.append(icon("arrow-right"));
  const back = button(t("back"), () => walk(-1));
  const footer = h("div", { class: "nvfp4-footer" }, back, next);
  const views = {};
  const element = h(
    "div",
    { class: "nvfp4-studio" },
    h("div", { class: "nvfp4-header" }, h("h2", {}, "NVFP4 Studio"), iconButton(t("refresh"), "refresh", refresh)),
    steps.element,
    chosen,
    strip.element,
    content,
    footer,
    spoken,
  );
  element.addEventListener("keydown", keepFromCanvas);

  /** To the next step or back, with the focus at its beginning. */
  function walk(by) {
    session.go(STEPS[STEPS.indexOf(store.state.step) + by]);
    content.focus();
  }

  /** Views are made when they are first opened and stay, with their focus and scroll position. */
  function view(step) {
    if (!views[step]) {
      views[step] = VIEWS[step](session);
      views[step].element.classList.add("nvfp4-step");
      content.append(views[step].element);
    }
    return views[step];
  }

  let open = null;
  function update(state) {
    const current = view(state.step);
    if (open !== state.step) {
      open = state.step;
      const leaves = [content, strip.element].some((part) => part.contains(document.activeElement));
      for (const [step, { element: part }] of Object.entries(views)) part.hidden = step !== open;
      content.scrollTop = 0;
      if (leaves) content.focus();
    }
    steps.update(state);
    strip.update(state);
    setText(spoken, spokenProgress(t, state.conversions.running[0]));
    const named = state.source && !WITHOUT_NAME.includes(state.step);
    setText(chosen, named ? state.source.split("/").slice(1).join("/") : "");
    setAttribute(chosen, "title", state.source);
    chosen.hidden = !chosen.textContent;
    current.update(state);
    const position = STEPS.indexOf(state.step);
    const following = STEPS[position + 1];
    back.hidden = position === 0;
    next.hidden = !following;
    if (following) next.setLabel(t(`next.${following}`));
    next.disabled = !reachable(state, following);
    footer.hidden = back.hidden && next.hidden;
  }

  const end = store.subscribe(update);
  update(store.state);
  return { element, destroy: end };
}

/** Letters that choose in a list are no shortcuts of the canvas. */
function keepFromCanvas(event) {
  if (event.target.localName === "select" && !event.ctrlKey && !event.metaKey) event.stopPropagation();
}

/** What a screen reader hears of a conversion: a sentence for every tenth of it. */
function spokenProgress(t, entry) {
  if (!entry) return "";
  const far = t.percent(Math.floor(shareOf(entry) * 10) / 10);
  return t("convert.strip", { far, name: entry.target.split("/").at(-1) });
}

/** Whether a step can be opened: calibrating and planning need a source that can be converted. */
export function reachable({ source, headers }, step) {
  if (step === undefined || step === "source" || step === "result") return true;
  return Boolean(source) && headers[source]?.convertible !== false;
}

function stepper({ t, go, store }) {
  const items = STEPS.map((step, i) => {
    const mark = h("span", { class: "nvfp4-step-mark", "aria-hidden": "true" }, String(i + 1));
    const control = h("button", { type: "button", class: "nvfp4-step-button", onclick: () => go(step) }, mark, h("span", {}, t(`steps.${step}`)));
    return { step, control };
  });
  const list = h("ol", { class: "nvfp4-steps" }, items.map(({ control }) => h("li", {}, control)));
  const element = h("nav", { "aria-label": t("steps.label") }, list);
  return {
    element,
    update(state) {
      for (const { step, control } of items) {
        setAttribute(control, "aria-current", step === state.step ? "step" : null);
        control.disabled = !reachable(store.state, step) || (step === "convert" && !state.source && !busy(state));
      }
    },
  };
}

const busy = ({ conversions }) => conversions.running.length + conversions.queued.length + conversions.interrupted.length > 0;

/** What runs, on every step but the one that shows it anyway. */
function runningStrip({ t, go }) {
  const bar = progressBar(t("convert.progress"));
  const text = h("span", {});
  const element = h("button", { type: "button", class: "nvfp4-strip", onclick: () => go("convert") }, text, bar.element);
  return {
    element,
    update({ step, conversions }) {
      const [entry] = conversions.running;
      element.hidden = !entry || step === "convert";
      if (!entry) return;
      const [far, long] = runningTexts(t, entry);
      setText(text, t("convert.strip", { far, name: entry.target.split("/").at(-1) }));
      bar.update(shareOf(entry), [far, long].filter(Boolean).join(" · "));
    },
  };
}
