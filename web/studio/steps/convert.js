// Step 4: the conversion, in ComfyUI's own queue.

import { h, keyedList, setText } from "../dom.js";
import { calibrationName, usableChoices } from "../model/calibrations.js";
import { keyOf, needsRecipe } from "../model/conversions.js";
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
  const lists = {
    running: jobList(t("convert.running"), keyOf, runningJob({ t, cancel })),
    queued: jobList(t("convert.queued"), keyOf, queuedJob({ t, cancel })),
    interrupted: jobList(t("convert.interrupted"), ({ id }) => id, interruptedJob({ t, resume: (entry) => queue(() => conversions.resume(entry)), discard })),
    finished: jobList(t("convert.finished"), keyOf, finishedJob({ t, open: (entry) => openResult(entry.target) })),
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

  /** Queue, and show what the server says against it. */
  async function queue(action) {
    problem.show("error", "");
    try {
      await action();
    } catch (error) {
      const { message, details } = textOf(error);
      problem.show("error", message, details);
    }
  }

  let starting = false;
  let shownSource = null;

  // A button that is disabled loses the focus, so a second press is passed over instead.
  async function convert() {
    if (starting) return;
    starting = true;
    await queue(() => conversions.start(store.state.source, usableChoices(store.state)));
    starting = false;
  }

  async function discard(entry) {
    const agreed = await host.confirmDelete(t("convert.discardTitle"), t("convert.discardQuestion"), [entry.target ?? entry.id]);
    if (agreed) await attempt(() => conversions.discard(entry.id));
  }

  function update(state) {
    if (state.source !== shownSource) problem.show("error", ""); // what was said is of the other source
    shownSource = state.source;
    facts.hidden = !state.source;
    summary(state.source ? summaryOf(state, t) : []);
    start.disabled = !state.source || !state.options;
    name.control.placeholder = state.source ? `${calibrationName(state.source)}-nvfp4` : "";
    name.update(state.choices.output_name);
    overwrite.update(state.choices.overwrite);
    start.setLabel(needsRecipe(state.choices) ? t("convert.startPinned") : t("convert.start"));
    const there = new Set(state.results.map(({ id }) => id));
    const shown = { ...state.conversions, finished: state.conversions.finished.map((entry) => ({ ...entry, there: there.has(entry.target) })) };
    for (const [kind, list] of Object.entries(lists)) list.update(shown[kind]);
    unread.show("error", state.conversionsError?.message ?? "", state.conversionsError?.details);
  }

  return { element, update };
}

function jobList(title, key, create) {
  const list = h("ul", { class: "nvfp4-jobs" });
  const rows = keyedList(list, key, create);
  const element = section(title, list);
  return {
    element,
    update(entries) {
      element.hidden = entries.length === 0;
      rows(entries);
    },
  };
}
