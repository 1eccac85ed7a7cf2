// Several calibrations of one model become one.

import { h, keyedList, setText } from "../dom.js";
import { button, notice, textField } from "./controls.js";

/** A panel that is closed at first: {element, toggle(), update(state)}; `closed()` gives the focus a place. */
export function mergePanel({ t, store, calibrations, textOf }, closed) {
  const chosen = new Set();
  let into = "";
  const problem = notice(t("details"));
  const boxes = h("fieldset", { class: "nvfp4-checks" }, h("legend", {}, t("merge.which")));
  const rows = keyedList(boxes, ({ name }) => name, createRow);
  const name = textField(t("merge.into"), (text) => {
    into = text.trim();
    store.set({});
  });
  const merge = button(t("merge.do"), run, { kind: "primary" });
  const cancel = button(t("cancel"), () => toggle());
  const element = h("div", { class: "nvfp4-panel", hidden: true }, boxes, name.element, problem.element, h("div", { class: "nvfp4-row" }, merge, cancel));

  function createRow(entry) {
    const label = h("span", {}, entry.name);
    const control = h("input", {
      type: "checkbox",
      onchange: () => {
        if (control.checked) chosen.add(entry.name);
        else chosen.delete(entry.name);
        store.set({});
      },
    });
    return {
      element: h("label", { class: "nvfp4-check" }, control, label),
      update: (item) => setText(label, item.name),
    };
  }

  function toggle() {
    element.hidden = !element.hidden;
    if (element.hidden) closed();
    else boxes.querySelector("input")?.focus();
  }

  async function run() {
    merge.disabled = true;
    try {
      await calibrations.merge([...chosen], into);
      problem.show("error", "");
      toggle();
    } catch (error) {
      const { message, details } = textOf(error);
      problem.show("error", message, details);
    } finally {
      merge.disabled = false;
    }
  }

  function update(state) {
    const stored = state.calibrations ?? [];
    rows(stored);
    const names = new Set(stored.map((entry) => entry.name));
    for (const gone of [...chosen].filter((entry) => !names.has(entry))) chosen.delete(gone);
    merge.disabled = chosen.size < 2 || !into;
  }

  return { element, toggle, update };
}
