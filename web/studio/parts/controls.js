// Buttons, fields and notices: native elements with labels, so that keyboard and screen reader work by themselves.

import { h, setChildren, setText, uniqueId } from "../dom.js";

export const icon = (name) => h("i", { class: `pi pi-${name} nvfp4-icon`, "aria-hidden": "true" });

/** A button with a text and, where given, an icon. `kind` is "primary", "danger" or "plain". */
export function button(label, action, { kind = "plain", symbol = "", title = null } = {}) {
  const text = h("span", {}, label);
  const attributes = { type: "button", class: `nvfp4-button nvfp4-${kind}`, title, onclick: action };
  const element = h("button", attributes, symbol ? icon(symbol) : null, text);
  return Object.assign(element, { setLabel: (wanted) => setText(text, wanted) });
}

/** A button that shows an icon only; the label is for screen readers and the tooltip. */
export const iconButton = (label, symbol, action) =>
  h("button", { type: "button", class: "nvfp4-icon-button", title: label, "aria-label": label, onclick: action }, icon(symbol));

/** A labelled element with a help text below: {element, setHelp}. */
export function field(label, control, help = "") {
  control.id ||= uniqueId("field");
  const helpText = h("p", { class: "nvfp4-help", id: `${control.id}-help` }, help);
  control.setAttribute("aria-describedby", helpText.id);
  const element = h("div", { class: "nvfp4-field" }, h("label", { for: control.id }, label), control, helpText);
  helpText.hidden = !help;
  return {
    element,
    setHelp(text) {
      setText(helpText, text ?? "");
      helpText.hidden = !text;
    },
  };
}

/** A list to choose from: {element, control, update(options, value, help)}; options are [value, label] pairs. */
export function selectField(label, choose) {
  const control = h("select", { class: "nvfp4-select", onchange: () => choose(control.value) });
  const { element, setHelp } = field(label, control);
  let shown = "";
  return {
    element,
    control,
    update(options, value, help = "") {
      const wanted = JSON.stringify(options);
      if (wanted !== shown) {
        shown = wanted;
        control.replaceChildren(...options.map(([key, text]) => h("option", { value: key }, text)));
      }
      if (control.value !== value) control.value = value;
      setHelp(help);
    },
  };
}

/** A line of text: {element, control, update(value)}; what is being typed is not overwritten. */
export function textField(label, change, { placeholder = "", help = "" } = {}) {
  const control = h("input", {
    type: "text",
    class: "nvfp4-input",
    placeholder,
    spellcheck: "false",
    autocomplete: "off",
    oninput: () => change(control.value),
  });
  const { element, setHelp } = field(label, control, help);
  return {
    element,
    control,
    setHelp,
    update: writer(control),
  };
}

/** Writes a value into a field, unless somebody types there. */
const writer = (control) => (value) => {
  if (document.activeElement !== control && control.value !== value) control.value = value;
};

/** A search field with an icon inside: {element, control, update(value)}; what is being typed is not overwritten. */
export function searchField(label, change) {
  const control = h("input", {
    type: "search",
    class: "nvfp4-input",
    placeholder: label,
    "aria-label": label,
    oninput: () => change(control.value),
  });
  return { element: h("div", { class: "nvfp4-search" }, icon("search"), control), control, update: writer(control) };
}

/** A checkbox with its label: {element, control, update(checked)}. */
export function checkField(label, change, help = "") {
  const control = h("input", { type: "checkbox", onchange: () => change(control.checked) });
  const text = help ? h("span", { class: "nvfp4-help" }, help) : null;
  const element = h("label", { class: "nvfp4-check" }, control, h("span", {}, label, text));
  return {
    element,
    control,
    update(checked) {
      control.checked = checked;
    },
  };
}

/** A few exclusive choices in one row: {element, update(value)}; choices are [value, label] pairs. */
export function segments(label, choices, choose) {
  const name = uniqueId("segments");
  const inputs = choices.map(([value]) =>
    h("input", { type: "radio", name, value, onchange: () => choose(value) }),
  );
  const labels = choices.map(([, text], i) => h("label", {}, inputs[i], h("span", {}, text)));
  return {
    element: h("div", { class: "nvfp4-segments", role: "radiogroup", "aria-label": label }, labels),
    update(value) {
      for (const input of inputs) input.checked = input.value === value;
    },
  };
}

const SYMBOLS = { error: "times-circle", warning: "exclamation-triangle", success: "check-circle", info: "info-circle" };

/** One sentence with an icon, and more on demand: {element, show(kind, text, details)}; no text hides it. */
export function notice(detailsLabel) {
  const symbol = h("span", { class: "nvfp4-notice-icon" });
  const text = h("span", {});
  const more = h("pre", { class: "nvfp4-details", tabindex: "0" });
  const details = h("details", {}, h("summary", {}, detailsLabel), more);
  const element = h("div", { class: "nvfp4-notice", hidden: true }, symbol, h("div", {}, text, details));
  let kindShown = "";
  return {
    element,
    show(kind, sentence, extra = "") {
      element.hidden = !sentence;
      if (!sentence) return;
      if (kind !== kindShown) {
        kindShown = kind;
        element.dataset.kind = kind;
        element.setAttribute("role", kind === "error" ? "alert" : "status");
        setChildren(symbol, icon(SYMBOLS[kind]));
      }
      setText(text, sentence);
      details.hidden = !extra;
      setText(more, extra);
    },
  };
}

/** A heading with its content below. */
export const section = (title, ...content) => {
  const heading = h("h3", { id: uniqueId("heading") }, title);
  return h("section", { class: "nvfp4-section", "aria-labelledby": heading.id }, heading, content);
};

/** A part that the user opens and closes. */
export const disclosure = (title, ...content) =>
  h("details", { class: "nvfp4-disclosure" }, h("summary", {}, h("span", {}, title)), h("div", { class: "nvfp4-stack" }, content));
