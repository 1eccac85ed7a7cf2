// Step 4: the conversion, in ComfyUI's own queue.

import { h, keyedList, setText } from "../dom.js";
import { calibrationName, usableChoices } from "../model/calibrations.js";
import { endedOf, keyOf, needsRecipe } from "../model/conversions.js";
import { summaryOf } from "../model/summary.js";
import { button, checkField, notice, section, textField } from "../parts/controls.js";
import { finishedJob, interruptedJob, queuedJob, runningJob } from "../parts/jobs.js";

/** {element, update(state)}. */
export function convertStep(session) {
  const { t, store, conversions, select, attempt, openResult, textOf, host } = session;
  const cancel = (entry) => attempt(() => conversions.cancel(entry));
  const name = textField(t("convert.name"), (text) => select({ output_name: text }), { help: t("convert.nameHelp") });
  const overwrite = checkField(t("convert.overwrite"), (checked) => select({ overwrite: checked }), t("convert.overwriteHelp"));
  const problem = notice(t("details"));
  const unread = notice(t("details"));
  const start = button(t("convert.start"), convert, { kind: "primary", symbol: "bolt" });
  const clear = button(t("convert.clear"), clearEnded, { symbol: "eraser" });
  const lists = {
    running: jobList(t("convert.running"), keyOf, runningJob({ t, cancel })),
    queued: jobList(t("convert.queued"), keyOf, queuedJob({ t, cancel })),
    interrupted: jobList(t("convert.interrupted"), ({ id }) => id, interruptedJob({ t, resume: (entry) => queue(() => conversions.resume(entry)), discard })),
    finished: jobList(t("convert.finished"), keyOf, finishedJob({ t, open: (entry) => openResult(entry.target) }), h("div", { class: "nvfp4-row" }, clear)),
  };
  const lead = h("p", { class: "nvfp4-lead" }, t("convert.lead"));
  const facts = h("dl", { class: "nvfp4-facts" });
  const summary = keyedList(facts, ([label]) => label, ([label]) => {
    const words = h("dd", {});
    return { element: h("div", {}, h("dt", {}, label), words), update: ([, text]) => setText(words, text) };
  });
  const element = h(
    "div",
    { class: "nvfp4-stack" },
    lead,
    facts,
    name.element,
    overwrite.element,
    problem.element,
    h("div", { class: "nvfp4-row" }, start),
    unread.element,
    Object.values(lists).map((list) => list.element),
  );

  let refused = null;
  let refusedChoices = null;

  /** Queue, and show what the server says against it until something else is chosen. */
  async function queue(action) {
    say(null);
    try {
      await action();
    } catch (error) {
      say(textOf(error));
    }
  }

  function say(error) {
    refused = error;
    refusedChoices = store.state.choices;
    update(store.state);
  }

  let starting = false;

  // A button that is disabled loses the focus, so a second press is passed over instead.
  async function convert() {
    if (starting) return;
    starting = true;
    await queue(() => conversions.start(store.state.source, usableChoices(store.state)));
    starting = false;
  }

  function clearEnded() {
    conversions.clear();
    (start.disabled ? name.control : start).focus();
  }

  async function discard(entry) {
    const agreed = await host.confirmDelete(t("convert.discardTitle"), t("convert.discardQuestion"), [entry.target ?? entry.id]);
    if (agreed) await attempt(() => conversions.discard(entry.id));
  }

  function update(state) {
    if (state.choices !== refusedChoices) refused = null; // every source has choices of its own
    const said = refused ?? (state.source ? state.planError : null);
    problem.show("error", said?.message ?? "", said?.details);
    facts.hidden = !state.source;
    summary(state.source ? summaryOf(state, t) : []);
    start.disabled = !state.source || !state.options || Boolean(state.planError);
    name.control.placeholder = state.source ? `${calibrationName(state.source)}-nvfp4` : "";
    name.update(state.choices.output_name);
    overwrite.update(state.choices.overwrite);
    start.setLabel(needsRecipe(state.choices) ? t("convert.startPinned") : t("convert.start"));
    const there = new Set(state.results.map(({ id }) => id));
    const shown = { ...state.conversions, finished: endedOf(state).map((entry) => ({ ...entry, there: there.has(entry.target) })) };
    for (const [kind, list] of Object.entries(lists)) list.update(shown[kind]);
    unread.show("error", state.conversionsError?.message ?? "", state.conversionsError?.details);
  }

  return { element, update };
}

function jobList(title, key, create, actions = null) {
  const list = h("ul", { class: "nvfp4-jobs" });
  const rows = keyedList(list, key, create);
  const element = section(title, list, actions);
  return {
    element,
    update(entries) {
      element.hidden = entries.length === 0;
      rows(entries);
    },
  };
}
