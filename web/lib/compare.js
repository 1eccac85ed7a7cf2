// A slider between two pictures on a node, drawn the same way on the canvas and in Nodes 2.0.

import { h } from "../studio/dom.js";
import { afterKey, caption, pairAfter, placeAt, viewPath } from "./slider.js";

const NAME = "nvfp4_slider";
const HEIGHT = 280;
const ROOM = 24;
const PIXELATED_BELOW = 200;

const COVER = "position:absolute;inset:0;width:100%;height:100%;object-fit:contain;user-select:none;pointer-events:none";
const TAG =
  "position:absolute;bottom:4px;padding:1px 6px;border-radius:4px;max-width:46%;overflow:hidden;text-overflow:ellipsis;" +
  "white-space:nowrap;font-size:11px;color:#fff;background:rgb(0 0 0 / 60%);pointer-events:none";
const BUTTON =
  "min-width:26px;border:0;border-radius:4px;cursor:pointer;color:var(--input-text, #ddd);" +
  "background:var(--comfy-input-bg, #222)";

/** Build the slider once; `show(data)` fills it with what the node told. */
function buildSlider(addressOf, t) {
  const state = { place: 50, pair: 0 };
  let data = { names: ["", ""], first: [], second: [], pictures: [] };

  const [first, second] = [h("img", { alt: "", style: COVER }), h("img", { alt: "", style: COVER })];
  const divider = h("div", {
    style: "position:absolute;top:0;bottom:0;width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 2px 1px #0008;pointer-events:none",
  });
  const tags = [h("span", { style: `${TAG};left:4px` }), h("span", { style: `${TAG};right:4px` })];
  const stage = h(
    "div",
    {
      role: "slider",
      tabindex: 0,
      "aria-label": t("slider.divider"),
      "aria-valuemin": 0,
      "aria-valuemax": 100,
      title: t("slider.help"),
      style: "position:relative;flex:1;min-height:0;overflow:hidden;cursor:ew-resize;touch-action:none;border-radius:6px",
    },
    second,
    first,
    divider,
    tags,
  );
  // A status, so that turning to another picture is heard.
  const words = h("span", { role: "status", style: "flex:1;overflow:hidden;text-overflow:ellipsis;white-space:nowrap" });
  const turn = (by) => () => move({ place: state.place, pair: pairAfter(state.pair, by, data.first.length) });
  const buttons = [
    h("button", { type: "button", "aria-label": t("slider.previous"), style: BUTTON, onclick: turn(-1) }, "‹"),
    h("button", { type: "button", "aria-label": t("slider.next"), style: BUTTON, onclick: turn(1) }, "›"),
  ];
  const bar = h("div", { style: "display:flex;gap:6px;align-items:center;font-size:12px;padding-top:4px" }, words, buttons);
  const element = h(
    "div",
    {
      class: "nvfp4-compare",
      style: "display:flex;flex-direction:column;box-sizing:border-box;padding:2px 6px;color:var(--input-text, #ddd)",
    },
    stage,
    bar,
  );

  for (const image of [first, second]) {
    image.addEventListener("load", () => {
      image.style.imageRendering = image.naturalWidth < PIXELATED_BELOW ? "pixelated" : "auto";
    });
  }

  function draw() {
    const place = `${state.place}%`;
    divider.style.left = place;
    first.style.clipPath = `inset(0 ${100 - state.place}% 0 0)`;
    stage.setAttribute("aria-valuenow", String(Math.round(state.place)));
    const [source, converted] = data.names;
    stage.setAttribute("aria-valuetext", t("slider.place", { percent: Math.round(state.place), source, converted }));
  }

  function load() {
    for (const [image, files] of [
      [first, data.first],
      [second, data.second],
    ]) {
      const wanted = addressOf(viewPath(files[state.pair]));
      if (image.getAttribute("src") !== wanted) image.setAttribute("src", wanted);
    }
    words.textContent = caption(data.pictures[state.pair], t("slider.equal"));
  }

  function move(next) {
    if (!next) return false;
    const turned = next.pair !== state.pair;
    Object.assign(state, next);
    if (turned) load();
    draw();
    return true;
  }

  const follow = (event) => {
    event.stopPropagation();
    if (event.type === "pointerdown") stage.setPointerCapture(event.pointerId);
    if (stage.hasPointerCapture(event.pointerId)) {
      move({ place: placeAt(event.clientX, stage.getBoundingClientRect()), pair: state.pair });
    }
  };
  for (const type of ["pointerdown", "pointermove", "pointerup"]) stage.addEventListener(type, follow);
  // Without this ComfyUI's shortcuts would see the keys too.
  stage.addEventListener("keydown", (event) => {
    if (!move(afterKey(state, event, data.first.length))) return;
    event.preventDefault();
    event.stopPropagation();
  });

  return {
    element,
    show(found) {
      data = found;
      state.pair = Math.min(state.pair, data.first.length - 1);
      for (const [tag, name] of [
        [tags[0], data.names[0]],
        [tags[1], data.names[1]],
      ]) {
        tag.textContent = name;
      }
      for (const button of buttons) button.hidden = data.first.length < 2;
      load();
      draw();
    },
  };
}

function addSlider(node, addressOf, t) {
  const slider = buildSlider(addressOf, t);
  slider.element.style.minHeight = `${HEIGHT}px`;
  const widget = node.addDOMWidget(NAME, NAME, slider.element, {
    serialize: false,
    hideOnZoom: false,
    getValue: () => "",
    setValue: () => {},
    // The canvas leaves a margin around the element, within this height.
    getMinHeight: () => HEIGHT + ROOM,
  });
  widget.serialize = false;
  widget.show = slider.show;
  return widget;
}

/**
 * Show pairs of pictures on `node`; the first call adds the widget.
 * @param {any} node
 * @param {{names: string[], first: object[], second: object[], pictures: object[]}} data what the server told
 * @param {(path: string) => string} addressOf a path of ComfyUI's API as an address
 * @param {(key: string, values?: object) => string} t a text in the user's language
 */
export function showComparison(node, data, addressOf, t) {
  if (!data.first.length) return;
  const widget = node.widgets?.find((candidate) => candidate.name === NAME) ?? addSlider(node, addressOf, t);
  widget.show(data);
  const wanted = node.computeSize?.();
  if (wanted && node.size && node.size[1] < wanted[1]) node.setSize?.([node.size[0], wanted[1]]);
  node.setDirtyCanvas?.(true, true);
}
