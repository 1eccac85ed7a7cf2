// Where the divider stands, without a page.

import assert from "node:assert/strict";
import { test } from "node:test";

import { afterKey, caption, placeAt, viewPath } from "../../../web/lib/slider.js";

const key = (name, shiftKey = false) => ({ key: name, shiftKey });

test("the divider stays within the picture", () => {
  const box = { left: 100, width: 200 };
  assert.deepEqual([50, 100, 150, 300, 900].map((x) => placeAt(x, box)), [0, 0, 25, 100, 100]);
  assert.equal(placeAt(10, { left: 0, width: 0 }), 50);
});

test("arrows move it, Home and End go to the ends, pages turn round", () => {
  const state = { place: 99, pair: 0 };
  assert.deepEqual(afterKey(state, key("ArrowRight"), 3), { place: 100, pair: 0 });
  assert.deepEqual(afterKey(state, key("ArrowLeft", true), 3), { place: 89, pair: 0 });
  assert.deepEqual(afterKey(state, key("Home"), 3), { place: 0, pair: 0 });
  assert.deepEqual(afterKey(state, key("End"), 3), { place: 100, pair: 0 });
  assert.deepEqual(afterKey(state, key("PageUp"), 3), { place: 99, pair: 2 });
  assert.deepEqual(afterKey({ place: 1, pair: 2 }, key("PageDown"), 3), { place: 1, pair: 0 });
  assert.equal(afterKey(state, key("Delete"), 3), null);
});

test("up and down move it too, as on every slider", () => {
  const state = { place: 50, pair: 1 };
  assert.deepEqual(afterKey(state, key("ArrowUp"), 3), { place: 52, pair: 1 });
  assert.deepEqual(afterKey(state, key("ArrowDown", true), 3), { place: 40, pair: 1 });
});

test("shortcuts of the browser and of ComfyUI are left alone", () => {
  for (const held of ["ctrlKey", "altKey", "metaKey"]) {
    for (const name of ["ArrowLeft", "Home", "PageDown"]) {
      assert.equal(afterKey({ place: 50, pair: 0 }, { ...key(name), [held]: true }, 3), null);
    }
  }
});

test("names of files are escaped in the path", () => {
  const path = viewPath({ filename: "a&b=c #1.png", subfolder: "x/y", type: "temp" });
  const query = new URLSearchParams(path.split("?")[1]);
  assert.deepEqual([query.get("filename"), query.get("subfolder"), query.get("type")], ["a&b=c #1.png", "x/y", "temp"]);
});

test("captions say the figures, or that nothing differs", () => {
  assert.equal(caption({ number: 2, psnr: 31.26, ssim: 0.98765, haarpsi: 0.9 }), "2: PSNR 31.3 dB, SSIM 0.9877, HaarPSI 0.9000");
  assert.equal(caption({ number: 1, psnr: null, ssim: 1, haarpsi: 1 }, "equal in every pixel"), "1: equal in every pixel");
});
