// The plan's layers, grouped by block or type; a row's or a group's format can be pinned by hand.

import { h, keyedList, setAttribute, setChildren, setText } from "../dom.js";
import { AS_RECIPE, commonPolicies, formatCounts, grouped, layersMatching, pinOf, RELEASED } from "../model/plans.js";
import { formatName } from "../text.js";
import { icon } from "./controls.js";
import { layerDetails } from "./layer_details.js";

const SEVERAL = "several";
const OPENED_BY_SEARCH = 60;

/** {element, update(state), reveal(layer)}; `pin(modules, policy)` changes the plan. */
export function layerTable({ t, host, pin }) {
  const caption = h("caption", { class: "nvfp4-hidden" }, t("table.caption"));
  const heads = ["layer", "format", "error", "size"].map((name) => h("th", { scope: "col", class: `nvfp4-col-${name}` }, t(`table.${name}`)));
  const table = h("table", { class: "nvfp4-table" }, caption, h("thead", {}, h("tr", {}, heads)));
  const empty = h("p", { class: "nvfp4-help", role: "status" });
  const element = h("div", { class: "nvfp4-table-frame" }, table, empty);
  const opened = new Set();
  const detailed = new Set();
  let last = null;
  const groups = keyedList(table, ({ key }) => `group ${key}`, createGroup);

  /**
   * A list of the policies that are allowed, with what leaves the choice to the recipe before them: its rules, whose
   * entry says what they give, and its own pins where it has some. Layers with different pins are SEVERAL.
   */
  function formatChoice(label, change) {
    const control = h("select", { class: "nvfp4-select nvfp4-small", onchange: () => change(control.value) });
    let shown = "";
    return {
      control,
      update(policies, value, name, format, pinnedByRecipe) {
        setAttribute(control, "aria-label", t(label, { name }));
        const wanted = [
          value === SEVERAL && [SEVERAL, format],
          [RELEASED, value === RELEASED ? format : t("plan.auto")],
          pinnedByRecipe && [AS_RECIPE, value === AS_RECIPE ? format : t("table.asRecipe")],
          ...policies.map((policy) => [policy, formatName(policy)]),
        ].filter(Boolean);
        const text = JSON.stringify(wanted);
        const option = ([key, words]) => h("option", { value: key, disabled: key === SEVERAL }, words);
        if (text !== shown) setChildren(control, wanted.map(option));
        shown = text;
        if (control.value !== value) control.value = value;
      },
    };
  }

  function createRow() {
    let layer;
    const name = h("button", { type: "button", class: "nvfp4-layer-name", onclick: () => flip(detailed, layer.name) });
    const reason = h("span", { class: "nvfp4-reason" });
    const choice = formatChoice("table.formatOf", (policy) => pin([layer.module], policy));
    const error = h("td", { class: "nvfp4-number" });
    const size = h("td", { class: "nvfp4-number" });
    const row = h("tr", { class: "nvfp4-layer" }, h("th", { scope: "row" }, name, reason), h("td", {}, choice.control), error, size);
    return {
      element: row,
      update(item) {
        layer = item.layer;
        setText(name, item.label);
        setAttribute(name, "title", `${layer.name}  ${layer.shape.join(" × ")}`);
        setAttribute(name, "aria-expanded", String(detailed.has(layer.name)));
        setText(reason, t.told(layer.reason));
        choice.update(layer.allowed ?? [], item.pin, layer.module, formatName(layer.format), item.pinnedByRecipe);
        choice.control.disabled = (layer.allowed ?? []).length < 2;
        row.classList.toggle("nvfp4-pinned-row", Boolean(layer.pinned));
        setText(error, errorText(layer));
        setText(size, t.size(layer.bytes_after));
      },
    };
  }

  function errorText(layer) {
    const { sqnr_db: value } = layer.predicted ?? {};
    return Number.isFinite(value) ? t.number(value, 1) : "–";
  }

  function createGroup({ key }) {
    const chevron = icon("chevron-right");
    const name = h("span", {});
    const count = h("span", { class: "nvfp4-reason" });
    const toggle = h("button", { type: "button", class: "nvfp4-group-toggle", onclick: () => flip(opened, key) }, chevron, h("span", {}, name, count));
    let modules = [];
    const choice = formatChoice("table.formatOfGroup", (policy) => pin(modules, policy));
    const error = h("td", { class: "nvfp4-number" });
    const size = h("td", { class: "nvfp4-number" });
    const head = h("tr", { class: "nvfp4-group" }, h("th", { scope: "row" }, toggle), h("td", {}, choice.control), error, size);
    const body = h("tbody", {}, head);
    const members = h("template", {});
    body.append(members);
    const rows = keyedList(body, ({ kind, layer }) => `${kind} ${layer?.name}`, createAny);
    function createAny({ kind }) {
      if (kind === "head") return { element: head, update() {} };
      return kind === "layer" ? createRow() : layerDetails({ t, host });
    }
    members.remove();
    return {
      element: body,
      update({ layers, open, by, pins, calibration }) {
        const free = layers.filter(({ allowed }) => allowed?.length > 1);
        modules = free.map((layer) => layer.module);
        setAttribute(toggle, "aria-expanded", String(open));
        setText(name, key);
        setText(count, t("table.layers", { count: layers.length }));
        const policies = commonPolicies(free);
        const [common = RELEASED, ...others] = new Set(free.map((layer) => pinOf(layer, pins)));
        const pinnedByRecipe = free.some((layer) => isPinnedByRecipe(layer, pins));
        choice.update(policies, others.length ? SEVERAL : common, key, summaryOf(layers), pinnedByRecipe);
        choice.control.disabled = policies.length < 2;
        const errors = layers.map((layer) => layer.predicted?.sqnr_db).filter(Number.isFinite);
        setText(error, errors.length ? t.number(Math.min(...errors), 1) : "–");
        setText(size, t.size(layers.reduce((sum, layer) => sum + layer.bytes_after, 0)));
        const shown = (layer) => {
          const own = { pin: pinOf(layer, pins), pinnedByRecipe: isPinnedByRecipe(layer, pins) };
          const row = { kind: "layer", layer, label: labelOf(layer, by), ...own };
          return detailed.has(layer.name) ? [row, { kind: "details", layer, calibration }] : [row];
        };
        rows([{ kind: "head" }, ...(open ? layers.flatMap(shown) : [])]);
      },
    };
  }

  function summaryOf(layers) {
    const counts = formatCounts(layers);
    return counts.length === 1 ? formatName(counts[0][0]) : t("table.mixed", { format: formatName(counts[0][0]) });
  }

  const isPinnedByRecipe = (layer, pins) => pinOf(layer, pins) === AS_RECIPE || pins[layer.module] === null;
  const labelOf = (layer, by) => (by === "block" ? layer.kind || layer.module : layer.block || layer.module);

  function flip(set, key) {
    if (set.has(key)) set.delete(key);
    else set.add(key);
    update(last);
  }

  function update(wanted) {
    last = wanted;
    const { layers, by, search, pins, pinnedOnly, calibration } = wanted;
    const found = layersMatching(layers, search, t.told).filter((layer) => !pinnedOnly || layer.pinned);
    const narrowed = (search || pinnedOnly) && found.length <= OPENED_BY_SEARCH;
    groups(grouped(found, by, t("table.outside")).map((group) => ({ ...group, by, pins, calibration, open: opened.has(group.key) || narrowed })));
    setText(empty, found.length ? "" : t("table.nothing"));
    empty.hidden = found.length > 0;
  }

  /** Open a layer's group and details, and put the focus on its format. */
  function reveal(layer, by) {
    detailed.add(layer.name);
    opened.add((by === "block" ? layer.block : layer.kind) || t("table.outside"));
    update(last);
    const label = t("table.formatOf", { name: layer.module });
    const control = [...table.querySelectorAll("select")].find((candidate) => candidate.getAttribute("aria-label") === label);
    control?.scrollIntoView({ block: "center" });
    (control?.disabled ? control.closest("tr").querySelector("button") : control)?.focus();
  }

  return { element, update, reveal };
}
