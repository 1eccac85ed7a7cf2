// Blocks × layer types as coloured cells: one look tells which layers have which format, or where the error is.

import { h, setAttribute, setChildren, setText, svg } from "../dom.js";

const LABEL = { least: 40, most: 150, crowded: 92, letter: 4.9, many: 20 };
const WIDTH = 290;
const MAX_CELL = 14;
const ROW = 13;
const HEAD = 12;
const EVERY = 5;
const GROWTH = 1.6;

/** Blocks of one name, such as transformer_blocks, with their layers by type: [{name, blocks, kinds, cells}]. */
export function mapsOf(layers) {
  const maps = new Map();
  for (const layer of layers) {
    // A number of more digits is no block's: no model has a thousand of them.
    const split = /^(.*)\.(\d{1,3})$/.exec(layer.block ?? "");
    if (!split) continue;
    const [, name, number] = split;
    if (!maps.has(name)) maps.set(name, { name, blocks: 0, kinds: [], cells: new Map() });
    const map = maps.get(name);
    map.blocks = Math.max(map.blocks, Number(number) + 1);
    if (!map.kinds.includes(layer.kind)) map.kinds.push(layer.kind);
    map.cells.set(`${layer.kind} ${number}`, layer);
  }
  return [...maps.values()];
}

/** Position 0..1 of an error between the best and the worst layer; 1 is worst, null where it is not known. */
export function errorScale(layers) {
  const known = layers.map((layer) => layer.predicted?.sqnr_db).filter(Number.isFinite);
  const low = Math.min(...known);
  const high = Math.max(...known);
  return (layer) => {
    const value = layer.predicted?.sqnr_db;
    if (!Number.isFinite(value)) return null;
    return high > low ? (high - value) / (high - low) : 0.5;
  };
}

const COLOURED = ["nvfp4", "float8_e4m3fn", "float8_e5m2", "mxfp8", "bfloat16", "float16", "float32", "int8", "int8_tensorwise"];

/** The class that colours a layer of this format. */
export const formatClass = ({ format }) => `nvfp4-format-${COLOURED.includes(format) ? format : "other"}`;

/**
 * {element, update(layers, mode)}; mode is "format" or "error". `describe(layer)` tells what is pointed at, `open(layer)`
 * is called where one is chosen, where that does something. `label` and `hint` are the keys of the texts that say so.
 */
export function blockMap({ t, describe, open = (_layer) => {}, label: labelKey, hint }) {
  const info = h("p", { class: "nvfp4-map-info", role: "status" });
  const holder = h("div", { class: "nvfp4-maps" });
  const element = h("div", {}, holder, info);
  let drawnFor = null;
  let drawnMode = "";

  function drawing(map, mode, scale) {
    const label = labelWidth(map);
    const cell = Math.min(MAX_CELL, (WIDTH - label) / map.blocks);
    const width = label + cell * map.blocks;
    const height = HEAD + ROW * map.kinds.length;
    const rects = [];
    const positions = [];
    map.kinds.forEach((kind, row) => {
      for (let block = 0; block < map.blocks; block += 1) {
        const layer = map.cells.get(`${kind} ${block}`);
        if (!layer) continue;
        const box = { x: label + block * cell, y: HEAD + row * ROW, width: Math.max(1, cell - 1), height: ROW - 1 };
        const look = mode === "format" ? { class: `nvfp4-cell ${formatClass(layer)}` } : errorLook(scale(layer));
        const rect = svg("rect", { ...box, ...look, rx: 1.5 });
        rect.classList.toggle("nvfp4-pinned", Boolean(layer.pinned));
        rects.push(rect);
        positions.push({ rect, layer, row, block });
      }
    });
    const labels = map.kinds.map((kind, row) =>
      svg("text", { x: label - 5, y: HEAD + row * ROW + 9.5, class: "nvfp4-map-label" }, shortened(kind, label), svg("title", {}, kind)),
    );
    const step = cell * EVERY < 16 ? EVERY * 2 : EVERY;
    const numbers = [];
    for (let block = 0; block < map.blocks; block += step) {
      numbers.push(svg("text", { x: label + (block + 0.5) * cell, y: 8, class: "nvfp4-map-number" }, String(block)));
    }
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, labels, numbers, rects);
    picture.style.maxWidth = `${cell < MAX_CELL ? width * GROWTH : width}px`;
    return { picture, positions };
  }

  function errorLook(share) {
    if (share === null) return { class: "nvfp4-cell nvfp4-format-none" };
    return { class: "nvfp4-cell nvfp4-error", "fill-opacity": (0.12 + 0.88 * share).toFixed(3) };
  }

  function interactive(map, { picture, positions }) {
    let current = -1;
    const frame = h(
      "div",
      { class: "nvfp4-map", tabindex: "0", role: "group", "aria-label": t(labelKey, { name: map.name, blocks: map.blocks }) },
      h("div", { class: "nvfp4-map-name" }, map.name),
      picture,
    );
    const point = (index) => {
      positions[current]?.rect.classList.remove("nvfp4-current");
      current = index;
      positions[current]?.rect.classList.add("nvfp4-current");
      if (current >= 0) setText(info, describe(positions[current].layer));
    };
    const move = (rows, blocks) => {
      const from = positions[Math.max(0, current)];
      const found = positions.findIndex(({ row, block }) => row === from.row + rows && block === from.block + blocks);
      point(current < 0 ? 0 : found >= 0 ? found : current);
    };
    const keys = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    frame.addEventListener("keydown", (event) => {
      if (keys[event.key]) move(...keys[event.key]);
      else if ((event.key === "Enter" || event.key === " ") && current >= 0) open(positions[current].layer);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    picture.addEventListener("pointermove", (event) => {
      const index = positions.findIndex(({ rect }) => rect === event.target);
      if (index >= 0 && index !== current) point(index);
    });
    picture.addEventListener("pointerleave", () => point(-1));
    picture.addEventListener("click", (event) => {
      const hit = positions.find(({ rect }) => rect === event.target);
      if (hit) open(hit.layer);
    });
    return frame;
  }

  function update(layers, mode) {
    if (layers === drawnFor && mode === drawnMode) return;
    const focused = holder.contains(document.activeElement) ? [...holder.children].indexOf(document.activeElement) : -1;
    drawnFor = layers;
    drawnMode = mode;
    const scale = errorScale(layers);
    setChildren(holder, mapsOf(layers).map((map) => interactive(map, drawing(map, mode, scale))));
    if (focused >= 0) /** @type {HTMLElement} */ (holder.children[focused])?.focus();
    setText(info, t(hint));
    setAttribute(element, "hidden", holder.childElementCount === 0);
  }

  return { element, update };
}

/** Room for the types' names: all that they need, less where there are many blocks. */
function labelWidth({ kinds, blocks }) {
  const needed = 8 + LABEL.letter * Math.max(...kinds.map((kind) => kind.length));
  return Math.max(LABEL.least, Math.min(needed, blocks > LABEL.many ? LABEL.crowded : LABEL.most));
}

function shortened(kind, width) {
  const letters = Math.floor((width - 8) / LABEL.letter + 0.01);
  return kind.length > letters ? `…${kind.slice(1 - letters)}` : kind;
}
