// The studio without a page: what is kept, asked and told, and how numbers and texts read.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import test from "node:test";
import { loaderOf, matchingLoaders } from "../../../web/lib/loaders.js";
import { createClient } from "../../../web/studio/client.js";
import { filledComparison, sourceOfResult } from "../../../web/studio/comparison.js";
import { adviceOf } from "../../../web/studio/parts/calibration_details.js";
import { errorScale, mapsOf } from "../../../web/studio/parts/block_map.js";
import { placed, pointsOf } from "../../../web/studio/parts/curve.js";
import { factsOf } from "../../../web/studio/parts/layer_details.js";
import { runningTexts } from "../../../web/studio/parts/jobs.js";
import { binHeights, calibrationName, createCalibrations, usableChoices } from "../../../web/studio/model/calibrations.js";
import { checkedChoices, DEFAULTS, lastSource, recallChoices, rememberChoices } from "../../../web/studio/model/choices.js";
import { afterEvent, createConversions, inputsOf, needsRecipe, promptOf } from "../../../web/studio/model/conversions.js";
import {
  AS_RECIPE,
  commonPolicies,
  createPlans,
  formatCounts,
  grouped,
  layersMatching,
  pinOf,
  pinsAfter,
  planRequest,
  qualityText,
  RELEASED,
  roundedText,
  speedText,
  tradedText,
  withoutReleases,
} from "../../../web/studio/model/plans.js";
import { measuredLayers, worstLayers } from "../../../web/studio/model/results.js";
import { defaultsOf, sensitivitiesOf } from "../../../web/studio/model/sensitivities.js";
import { matching, typesOf } from "../../../web/studio/model/sources.js";
import { summaryOf } from "../../../web/studio/model/summary.js";
import { createGraph } from "../../../web/studio/graph.js";
import { menuItemsOf, newestResultOf } from "../../../web/studio/menu.js";
import { createStore, newestOnly } from "../../../web/studio/store.js";
import { filledTemplate, templateOf } from "../../../web/studio/template.js";
import { createTranslator, formatName } from "../../../web/studio/text.js";

const root = new URL("../../../", import.meta.url);
const english = JSON.parse(readFileSync(new URL("locales/en/main.json", root), "utf-8"));
const t = createTranslator({ en: english }, "en");

function storage(content = {}) {
  const kept = new Map(Object.entries(content));
  return { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
}

const LAYERS = [
  { name: "in", module: "in", block: "", kind: "in", format: "bfloat16", reason: "outside", allowed: ["keep"] },
  { name: "b.0.q", module: "b.0.q", block: "b.0", kind: "q", format: "nvfp4", reason: "rule", allowed: ["nvfp4", "fp8"], predicted: { sqnr_db: 20 } },
  { name: "b.1.q", module: "b.1.q", block: "b.1", kind: "q", format: "nvfp4", reason: "rule", allowed: ["nvfp4"], predicted: { sqnr_db: 22 } },
  { name: "b.1.k", module: "b.1.k", block: "b.1", kind: "k", format: "float8_e4m3fn", reason: "edge", allowed: ["fp8"], predicted: { sqnr_db: null } },
];

test("choices are kept by source, the newest source is the last one, and what is no choice is left out", () => {
  const kept = storage();
  rememberChoices(kept, "a", { ...DEFAULTS, budget: "size<=9GB", pins: { x: "fp8" } });
  for (let i = 0; i < 60; i += 1) rememberChoices(kept, `other ${i}`, DEFAULTS);
  rememberChoices(kept, "b", { ...DEFAULTS, overwrite: true });
  assert.deepEqual(recallChoices(kept, "a"), { ...DEFAULTS, pins: {} });
  assert.equal(recallChoices(kept, "b").overwrite, true);
  assert.equal(lastSource(kept), "b");
  assert.deepEqual(checkedChoices({ budget: 3, overwrite: "yes", recipe: null, pins: { a: 1, b: "fp8", c: null } }), { ...DEFAULTS, pins: { b: "fp8", c: null } });
});

test("a broken or forbidden storage is an empty one", () => {
  const forbidden = {
    getItem() {
      throw new Error("denied");
    },
    setItem() {
      throw new Error("denied");
    },
  };
  for (const bad of [storage({ "nvfp4_studio.choices": "{" }), storage({ "nvfp4_studio.choices": "[1]" }), forbidden]) {
    assert.deepEqual(recallChoices(bad, "a"), { ...DEFAULTS, pins: {} });
    rememberChoices(bad, "a", DEFAULTS);
  }
});

test("an answer that was overtaken is dropped, its error too", async () => {
  const waiting = [];
  const ask = newestOnly(() => new Promise((resolve, reject) => waiting.push({ resolve, reject })));
  const answers = [ask(), ask(), ask()];
  waiting[2].resolve("new");
  waiting[0].resolve("old");
  waiting[1].reject(new Error("old"));
  assert.deepEqual(await Promise.all(answers), [undefined, undefined, "new"]);
});

test("several changes in one turn are told once", async () => {
  const store = createStore({ a: 1 });
  const told = [];
  const end = store.subscribe((state) => told.push(state));
  store.set({ b: 2 });
  store.set((state) => ({ a: state.a + state.b }));
  await Promise.resolve();
  end();
  store.set({ a: 0 });
  await Promise.resolve();
  assert.deepEqual(told, [{ a: 3, b: 2 }]);
});

test("the server's sentence becomes the error; no answer and no JSON have one too", async () => {
  const answer = (status, body) => async () => ({ ok: status === 200, status, text: async () => body });
  const message = async (fetchApi) => createClient(fetchApi).sources().then(JSON.stringify, (error) => [error.message, error.status]);
  assert.deepEqual(await message(answer(404, '{"error": "There is none."}')), ["There is none.", 404]);
  assert.deepEqual(await message(answer(400, '{"error": {"message": "Bad prompt", "type": "x"}}')), ["Bad prompt", 400]);
  assert.equal((await message(answer(500, "<html>")))[1], 500);
  assert.equal((await message(() => Promise.reject(new TypeError("down"))))[1], 0);
  assert.equal(await message(answer(200, '{"sources": []}')), '{"sources":[]}');
});

test("a plan is asked for without the conversion's own choices; a calibration without a file counts as none", () => {
  const choices = { ...DEFAULTS, budget: "  ", calibration: "c", output_name: "x" };
  const wanted = planRequest("s", choices);
  assert.deepEqual([wanted.source, wanted.budget, wanted.calibration], ["s", null, "c"]);
  assert.ok(!("output_name" in wanted) && !("overwrite" in wanted));
  assert.deepEqual([wanted.text_encoder, wanted.pre_quant, wanted.gain, wanted.kernels], [null, null, false, null]);
  const encoded = { ...choices, text_encoder: "nvfp4", pre_quant: "search", gain: true, kernels: "b200" };
  const asked = planRequest("s", encoded);
  assert.deepEqual([asked.text_encoder, asked.pre_quant, asked.gain, asked.kernels], ["nvfp4", "search", true, "b200"]);
  assert.equal(planRequest("s", { ...encoded, layout: "diffusion-model" }).text_encoder, null);
  assert.equal(usableChoices({ choices, calibrations: [] }).calibration, null);
  assert.equal(usableChoices({ choices, calibrations: [{ name: "c" }] }).calibration, "c");
  assert.equal(usableChoices({ choices, calibrations: null }).calibration, "c", "a list that is not loaded tells nothing");
});

test("before a conversion it is told what it will do, and that a calibration has nothing yet", () => {
  const options = { defaults: { rounding: "auto", pre_quant: "off", layout: "source", text_encoder: "keep", input_scale: "p99.9" } };
  const told = (chosen, calibrations) =>
    Object.fromEntries(summaryOf({ source: "checkpoints/s", choices: { ...DEFAULTS, ...chosen }, calibrations, options }, t));
  assert.deepEqual(told({}, []), { Source: "checkpoints/s", Recipe: "Automatic", Calibration: "None" });
  assert.equal(told({ calibration: "c" }, [{ name: "c" }]).Calibration, "c");
  assert.equal(told({ calibration: "c" }, null).Calibration, "c");
  assert.equal(told({ calibration: "c" }, []).Calibration, "Not calibrated: “c” has no samples yet.");
  const all = told({ rounding: "auto", pre_quant: "search", text_encoder: "fp8", pins: { a: "fp8", b: null }, budget: " size<=1GB " }, []);
  assert.deepEqual([all["Rounding of weights"], all[t("plan.preQuant")], all["Text encoder"]], [undefined, "search", "fp8"]);
  assert.deepEqual([all["Pinned by hand"], all.Budget], ["1 layer", "size<=1GB"]);
  assert.equal(told({ text_encoder: "fp8", layout: "diffusion-model" }, [])["Text encoder"], undefined);
});

test("a plan says how weights are rounded, and what a calibration with more detail would give", () => {
  const text = (roundings, rounding, detail, of = "weights") => roundedText({ summary: { roundings, error: { of } } }, rounding, detail, t);
  const closer = "A calibration with detail curvature lets GPTQ round so that outputs stay closer.";
  const traded = "Outputs are closer than the SQNR of the weights says: rounding by gptq, weighted trades error of the weights for error of the outputs.";
  assert.equal(text({ "block-search": 9 }, null, "scales"), `Rounded by block-search. ${closer}`);
  assert.equal(text({ "block-search": 9 }, "auto", undefined), `Rounded by block-search. ${closer}`);
  assert.equal(text({ weighted: 2, gptq: 1200 }, null, "curvature"), `Rounded by weighted 2, gptq 1,200. ${traded}`);
  assert.equal(text({ gptq: 1200 }, null, "curvature", "output"), "Rounded by gptq.", "a measured output needs no excuse");
  assert.equal(text({ nearest: 9 }, "nearest", "scales"), "Rounded by nearest.");
  assert.equal(text({}, null, undefined), "");
  const there = { summary: { roundings: { nearest: 9 }, error: { of: "weights" } }, fitting: ["mine", "mine-2"] };
  assert.equal(roundedText(there, null, undefined, t), "Rounded by nearest. A calibration of this model is there: mine, mine-2. Choose it under “Calibrate”.");
});

test("a plan says whose SQNR it tells", () => {
  const text = (of, sqnr_db = 19.6) => qualityText({ summary: { error: { of, sqnr_db } } }, t);
  assert.equal(text("weights"), "Weights: 19.6 dB SQNR (higher is closer)");
  assert.equal(text("output"), "The model's output: 19.6 dB SQNR predicted (higher is closer)");
  assert.equal(text("layers"), "The layers' outputs: 19.6 dB SQNR measured (higher is closer)");
  assert.deepEqual([text("weights", null), tradedText(["nearest", undefined], t)], ["", ""]);
});

test("a predicted speed says for which inputs it is", () => {
  const text = (basis, rows) => speedText({ predicted: 0.912, basis, gpu: "RTX 4090", rows, image_rows: 4096 }, t);
  assert.equal(text("image", 4096), "About 0.91 times as fast as FP8 for images of 1024² (RTX 4090)");
  assert.equal(text("calibrated", 8192), "About 0.91 times as fast as FP8 for inputs of 8,192 rows, as calibrated (RTX 4090)");
  assert.match(text("few", 64), /inputs of 64 rows, .*; an image of 1024² has 4,096 rows/);
  assert.match(text("unknown", 0), /^About 0.91 times as fast as FP8 for inputs as the sensitivity's calibration saw them/);
});

test("layers that the recipe pins are released by null, those pinned by hand by taking the pin off", () => {
  const layers = [{ module: "a", pinned: true }, { module: "b", pinned: true }, { module: "c", pinned: false }];
  const pins = { b: "fp8" };
  assert.deepEqual(layers.map((layer) => pinOf(layer, pins)), [AS_RECIPE, "fp8", RELEASED]);
  const released = pinsAfter(pins, layers, ["a", "b", "c"], RELEASED);
  assert.deepEqual(released, { a: null });
  assert.equal(pinOf({ module: "a", pinned: false }, released), RELEASED);
  assert.deepEqual(pinsAfter(released, [], ["a"], RELEASED), { a: null });
  assert.deepEqual([pinsAfter(released, [], ["a"], AS_RECIPE), pinsAfter(released, [], ["a"], "nvfp4")], [{}, { a: "nvfp4" }]);
  assert.deepEqual(withoutReleases({ a: null, b: "fp8" }), { b: "fp8" });
});

test("pins that no plan can keep are taken off before there is a plan", () => {
  const store = createStore({ choices: { ...DEFAULTS, pins: { a: "fp8" } }, plan: null, planning: false });
  const plans = createPlans({ store, client: {}, textOf: String, select: (patch) => store.set({ choices: { ...store.state.choices, ...patch } }) });
  plans.pin(["a"], RELEASED);
  assert.deepEqual(store.state.choices.pins, {});
  store.set({ choices: { ...DEFAULTS, recipe: "my/x", pins: { a: null, b: "fp8" } } });
  plans.chooseRecipe("auto");
  assert.deepEqual([store.state.choices.recipe, store.state.choices.pins], ["auto", { b: "fp8" }]);
});

test("the queued prompt is one convert node with its token, and pins make a recipe necessary", () => {
  const defaults = { input_scale: "p99.9", rounding: "auto", layout: "source", text_encoder: "keep", pre_quant: "off" };
  const inputs = inputsOf("checkpoints/a.safetensors", { ...DEFAULTS, output_name: " b " }, defaults);
  const [[id, node], ...others] = Object.entries(promptOf(inputs, "T"));
  assert.deepEqual(others, []);
  assert.match(id, /^[0-9A-Za-z_.-]{1,40}$/);
  assert.equal(node.class_type, "NVFP4Convert");
  const { calibration, rounding, output_name: name, conversion_token: token } = node.inputs;
  assert.deepEqual([calibration, rounding, name, token], ["none", "auto", "b", "T"]);
  const optional = (chosen) => {
    const { text_encoder: encoder, pre_quant: scaling, gain, ...rest } = inputsOf("s", { ...DEFAULTS, ...chosen }, defaults);
    assert.ok(!("kernels" in rest), "what speeds are predicted by is nothing of the file");
    return [encoder, scaling, gain];
  };
  assert.deepEqual(optional({}), ["keep", "off", false]);
  const all = { text_encoder: "fp8", pre_quant: "search", gain: true };
  assert.deepEqual([optional(all), optional({ ...all, layout: "diffusion-model" })], [["fp8", "search", true], ["keep", "search", true]]);
  assert.deepEqual([DEFAULTS, { ...DEFAULTS, pins: { a: "fp8" } }, { ...DEFAULTS, budget: "size<=1GB" }].map(needsRecipe), [false, true, true]);
});

test("plans that wait in the queue keep recipes of their own; the same plan has the same one", async () => {
  const saved = [];
  const client = {
    saveRecipe: async (name) => (saved.push(name), { id: `my/${name}` }),
    token: async () => "T",
    queue: async () => ({ prompt_id: "p" }),
    conversions: async () => ({ running: [], queued: [], finished: [], interrupted: [] }),
  };
  const store = { state: { options: { defaults: {} } }, set() {} };
  const conversions = createConversions({ store, client, clientId: () => "c", textOf: String, measuring() {}, ended() {} });
  const pinned = (policy) => ({ ...DEFAULTS, pins: { a: policy } });
  await conversions.start("checkpoints/a.safetensors", pinned("keep"));
  await conversions.start("checkpoints/a.safetensors", pinned("nvfp4"));
  await conversions.start("checkpoints/a.safetensors", { ...pinned("keep"), output_name: "other" });
  await conversions.start("diffusion_models/a.safetensors", pinned("keep"));
  assert.equal(new Set(saved).size, 3);
  assert.equal(saved[0], saved[2]);
  assert.match(saved[0], /^\.studio\/a-[0-9a-f]{8}$/);
});

test("events move a conversion from waiting to running to ended", () => {
  const start = { running: [], queued: [{ prompt_id: "1", node: "n" }], finished: [], interrupted: [] };
  const running = afterEvent(start, { state: "running", prompt_id: "1", node: "n", done: 1 });
  const later = afterEvent(running, { state: "running", prompt_id: "1", node: "n", done: 2 });
  const ended = afterEvent(later, { state: "finished", prompt_id: "1", node: "n", seconds: 3 });
  assert.deepEqual([running.queued, running.running.length, later.running.length, later.running[0].done], [[], 1, 1, 2]);
  assert.deepEqual([ended.running, ended.finished.map(({ seconds }) => seconds)], [[], [3]]);
});

test("layers are grouped, counted and found; a group offers what all of it allows", () => {
  assert.deepEqual(grouped(LAYERS, "block", "outside").map(({ key, layers }) => [key, layers.length]), [["outside", 1], ["b.0", 1], ["b.1", 2]]);
  assert.deepEqual(grouped(LAYERS, "type", "outside").map(({ key }) => key), ["in", "q", "k"]);
  assert.deepEqual(formatCounts(LAYERS), [["nvfp4", 2], ["bfloat16", 1], ["float8_e4m3fn", 1]]);
  assert.deepEqual(commonPolicies(LAYERS.slice(1, 3)), ["nvfp4"]);
  assert.deepEqual(commonPolicies([]), []);
  assert.deepEqual(layersMatching(LAYERS, "b.1 NVFP4", t.told).map(({ name }) => name), ["b.1.q"]);
});

test("a block map has a row for each type and a column for each block; errors are coloured between best and worst", () => {
  const [map, ...others] = mapsOf(LAYERS);
  assert.deepEqual([others, map.name, map.blocks, map.kinds], [[], "b", 2, ["q", "k"]]);
  assert.equal(map.cells.get("q 1").name, "b.1.q");
  assert.deepEqual(LAYERS.map(errorScale(LAYERS)), [null, 1, 0, null]);
  assert.deepEqual(mapsOf([{ block: "b.9999999999", kind: "q" }, { block: "b.2", kind: "q" }]).map(({ blocks }) => blocks), [3]);
});

/** Just enough of a graph: nodes, links by id, and connecting an output to an input. */
function fakeGraph() {
  const links = new Map();
  const graph = { nodes: [], getLink: (id) => links.get(id), getNodeById: (id) => graph.nodes.find((node) => node.id === id) };
  graph.add = (node) => {
    Object.assign(node, { graph, id: graph.nodes.length + 1, pos: node.pos ?? [0, 0], size: [200, 100] });
    node.connect = (slot, target, input) => {
      for (const other of graph.nodes) {
        for (const output of other.outputs ?? []) {
          output.links = (output.links ?? []).filter((id) => links.get(id).target_id !== target.id || links.get(id).target_slot !== input);
        }
      }
      links.set(links.size + 1, { target_id: target.id, target_slot: input });
      (node.outputs[slot].links ??= []).push(links.size);
    };
    graph.nodes.push(node);
    return node;
  };
  return graph;
}

test("a loader for a result appears in the middle of what is seen, below what lies there", () => {
  const workflow = fakeGraph();
  const made = () => ({ comfyClass: "UNETLoader", outputs: [{ type: "MODEL" }], widgets: [{ name: "unet_name", value: "", options: { values: [] } }] });
  globalThis.LiteGraph = { createNode: made };
  const app = { rootGraph: workflow, canvas: { graph: workflow, visible_area: [0, 0, 1000, 600], setDirty() {} } };
  const graph = createGraph({ app, changed() {} });
  const loader = { class_type: "UNETLoader", widget: "unet_name", value: "m.safetensors" };
  const { node, added } = graph.useFile(loader);
  assert.deepEqual([node.pos, node.widgets[0].value, added], [[330, 220], "m.safetensors", true]);
  assert.deepEqual(graph.addLoader(loader).pos, [330, 360]);
  delete globalThis.LiteGraph;
});

test("the calibrate node goes between a loader and all that took its model, once", () => {
  const workflow = fakeGraph();
  const loader = { comfyClass: "UNETLoader", outputs: [{ type: "MODEL" }], widgets: [{ name: "unet_name", value: "m.safetensors" }] };
  workflow.add(loader);
  const sampler = workflow.add({ comfyClass: "KSampler", outputs: [] });
  const shift = workflow.add({ comfyClass: "ModelSamplingSD3", outputs: [{ type: "MODEL" }] });
  loader.connect(0, sampler, 0);
  loader.connect(0, shift, 2);
  const widgets = () => [{ name: "name", value: "" }, { name: "detail", value: "scales", options: { values: ["scales", "curvature"] } }];
  const made = () => ({ comfyClass: "NVFP4Calibrate", mode: 0, outputs: [{ type: "MODEL" }], widgets: widgets() });
  globalThis.LiteGraph = { createNode: made };
  let changes = 0;
  const app = { rootGraph: workflow, canvas: { graph: workflow, setDirty() {} } };
  const graph = createGraph({ app, changed: () => (changes += 1) });
  const inserted = graph.insertCalibrate(loader, "m", "curvature");
  const targets = (node) => node.outputs[0].links.map((id) => [workflow.getLink(id).target_id, workflow.getLink(id).target_slot]);
  assert.deepEqual([targets(loader), targets(inserted)], [[[inserted.id, 0]], [[sampler.id, 0], [shift.id, 2]]]);
  assert.deepEqual([...inserted.widgets.map(({ value }) => value), changes], ["m", "curvature", 1]);
  graph.setPaused(inserted, true);
  assert.equal(graph.insertCalibrate(loader, "other"), inserted);
  assert.deepEqual([inserted.mode, workflow.nodes.length, graph.calibrateBehind(loader)], [0, 4, inserted]);
  delete globalThis.LiteGraph;
});

test("a convert node takes the loader's file, and the calibration behind it where there is one of that name", () => {
  const workflow = fakeGraph();
  const loader = workflow.add({ comfyClass: "UNETLoader", outputs: [{ type: "MODEL" }], widgets: [{ name: "unet_name", value: "m.safetensors" }] });
  const widget = (name, values) => ({ name, value: values[0], options: { values } });
  globalThis.LiteGraph = {
    createNode: () => ({ widgets: [widget("source", ["other", "diffusion_models/m.safetensors"]), widget("calibration", ["none", "m"])] }),
  };
  const graph = createGraph({ app: { rootGraph: workflow, canvas: { graph: workflow, setDirty() {} } }, changed() {} });
  const added = () => {
    graph.addConvert(loader, "diffusion_models/m.safetensors");
    return workflow.nodes.at(-1).widgets.map(({ value }) => value);
  };
  assert.deepEqual(added(), ["diffusion_models/m.safetensors", "none"]);
  const calibrate = workflow.add({ comfyClass: "NVFP4Calibrate", outputs: [{}], widgets: [{ name: "name", value: "m" }] });
  loader.connect(0, calibrate, 0);
  assert.deepEqual(added(), ["diffusion_models/m.safetensors", "m"]);
  calibrate.widgets[0].value = "not there yet";
  assert.deepEqual(added(), ["diffusion_models/m.safetensors", "none"]);
  delete globalThis.LiteGraph;
});

test("a model that leaves a subgraph goes through the calibrate node too", () => {
  const subgraph = fakeGraph();
  const loader = subgraph.add({ comfyClass: "UNETLoader", outputs: [{ type: "MODEL" }], widgets: [{ name: "unet_name", value: "m.safetensors" }] });
  subgraph.outputNode = { id: -20, slots: [] };
  for (const slot of [0, 1]) subgraph.outputNode.slots.push({ connect: (_output, node) => node.connect(0, subgraph.outputNode, slot) });
  loader.connect(0, subgraph.outputNode, 1);
  const made = () => ({ comfyClass: "NVFP4Calibrate", mode: 0, outputs: [{ type: "MODEL" }], widgets: [{ name: "name", value: "" }] });
  globalThis.LiteGraph = { createNode: made };
  const graph = createGraph({ app: { rootGraph: { nodes: [{ subgraph }] }, canvas: { graph: subgraph, setDirty() {} } }, changed() {} });
  const inserted = graph.insertCalibrate(loader, "m");
  const targets = (node) => node.outputs[0].links.map((id) => [subgraph.getLink(id).target_id, subgraph.getLink(id).target_slot]);
  assert.deepEqual([targets(loader), targets(inserted)], [[[inserted.id, 0]], [[-20, 1]]]);
  assert.deepEqual(graph.calibrateNodes().map(({ connected }) => connected), [true]);
  inserted.outputs[0].links = [];
  assert.deepEqual(graph.calibrateNodes().map(({ connected }) => connected), [false]);
  delete globalThis.LiteGraph;
});

test("loaders are found in subgraphs too, by the file that they chose", () => {
  const inside = { comfyClass: "UNETLoader", outputs: [{ type: "MODEL" }], widgets: [{ name: "unet_name", value: "a" }] };
  const workflow = { nodes: [{ outputs: [], subgraph: { nodes: [inside] } }, { outputs: [{ type: "MODEL" }], widgets: [] }] };
  assert.deepEqual(matchingLoaders(workflow, "diffusion_models/a"), [inside]);
  assert.deepEqual(matchingLoaders(workflow, "checkpoints/a"), []);
  assert.equal(loaderOf({ ...inside, outputs: [{ type: "CLIP" }] }), null);
});

test("sources are found by words and described by their largest types", () => {
  assert.deepEqual(matching([{ id: "checkpoints/Flux dev.safetensors" }, { id: "x" }], "dev flux"), [{ id: "checkpoints/Flux dev.safetensors" }]);
  assert.equal(typesOf({ formats: { bfloat16: 3, float8_e4m3fn: 9, float32: 1 } }, formatName), "FP8 + BF16");
});

test("the newest converted file of a source is the one that is used", () => {
  const results = [
    { id: "checkpoints/a-nvfp4.safetensors", source: "checkpoints/a.safetensors", modified_ns: 1 },
    { id: "checkpoints/a-2.safetensors", source: "checkpoints/a.safetensors", modified_ns: 2 },
    { id: "diffusion_models/b.safetensors", source: "diffusion_models/a.safetensors", modified_ns: 3 },
  ];
  assert.equal(newestResultOf(results, "checkpoints/a.safetensors").id, "checkpoints/a-2.safetensors");
  assert.equal(newestResultOf(results, "checkpoints/c.safetensors"), undefined);
});

test("files in subfolders are known by their names on Windows too", async () => {
  const source = "diffusion_models/wan\\high.safetensors";
  assert.equal(calibrationName(source), "high");
  assert.deepEqual(sensitivitiesOf([{ name: "x", source: "high.safetensors" }], source).map(({ name }) => name), ["x"]);
  assert.equal(sourceOfResult([{ id: source }], "high.safetensors", "diffusion_models/wan/x.safetensors", null), source);
  const loader = { class_type: "UNETLoader", widget: "unet_name", value: "wan\\high-nvfp4.safetensors" };
  const results = [{ id: "diffusion_models/wan/high-nvfp4.safetensors", source: "high.safetensors", modified_ns: 1, loader }];
  const node = { outputs: [{ type: "MODEL" }], widgets: [{ name: "unet_name", value: "wan\\high.safetensors" }] };
  const used = [];
  const session = { results: { async refresh() {} }, store: { state: { results } }, useIn: (...given) => used.push(given) };
  await menuItemsOf(node, { t, host: {}, ready: async () => session }).at(-1).callback();
  assert.deepEqual(used, [[node, loader]], "the loader's list has the separators of the system");
});

test("a result's map has the layers of blocks with the errors that were measured", () => {
  const layers = [{ name: "in", block: "", kind: "in" }, { name: "b.0.q", block: "b.0", kind: "q", error: { sqnr_db: 20 } }, { name: "encoder" }];
  const [layer, ...others] = measuredLayers({ plan: { layers } });
  assert.deepEqual([layer.name, layer.predicted, others, measuredLayers(null)], ["b.0.q", { sqnr_db: 20 }, [], []]);
});

test("the worst layers come first, and layers without an error do not come", () => {
  const layers = [{ name: "a", error: { sqnr_db: 30 } }, { name: "b", error: null }, { name: "c", error: { sqnr_db: 20 } }];
  assert.deepEqual(worstLayers({ plan: { layers } }).map(({ name }) => name), ["c", "a"]);
  assert.deepEqual(worstLayers(null), []);
});

test("advice is told once, what is missing before what is fine", () => {
  const found = { enough: false, recommendations: ["more"], warnings: ["more"], convergence: { advice: "fine" } };
  assert.deepEqual(adviceOf(found, "enough"), ["more", "fine"]);
  assert.equal(adviceOf({ ...found, enough: true }, "enough")[0], "enough");
  assert.deepEqual(binHeights([0, 2, 4]), [0, 0.5, 1]);
  assert.equal(calibrationName("checkpoints/sub/my model.v2.safetensors"), "my model.v2");
});

test("the list of calibrations is asked for again when a sampling has ended: influence may be there for the first time", async (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const store = createStore({ calibrations: [{ name: "c", influence: false }], choices: { calibration: null }, live: {}, statistics: {} });
  const client = { calibrations: async () => ({ calibrations: [{ name: "c", influence: true }] }) };
  const calibrations = createCalibrations({ store, client, textOf: String, select() {}, arrived() {} });
  const heard = async (event) => {
    calibrations.live(event);
    context.mock.timers.tick(1000);
    await Promise.resolve();
    await Promise.resolve();
    return store.state.calibrations[0].influence;
  };
  assert.equal(await heard({ name: "c", running: true, calls: 3 }), false);
  assert.equal(await heard({ name: "c", running: false, calls: 8 }), true);
});

test("an example workflow gets the user's file, source and calibration, and nothing else changes", () => {
  for (const [name, loader] of [
    ["nvfp4_calibrate_and_convert", { class_type: "CheckpointLoaderSimple", value: "mine.safetensors" }],
    ["nvfp4_diffusion_model", { class_type: "UNETLoader", value: "mine.safetensors" }],
  ]) {
    const workflow = JSON.parse(readFileSync(new URL(`example_workflows/${name}.json`, root), "utf-8"));
    const before = JSON.stringify(workflow);
    const filled = filledTemplate(workflow, loader, "folder/mine.safetensors", "mine");
    const values = (type) => filled.nodes.find((node) => node.type === type).widgets_values;
    assert.equal(values(loader.class_type)[0], "mine.safetensors");
    assert.equal(values("NVFP4Calibrate")[0], "mine");
    assert.deepEqual(values("NVFP4Convert").slice(0, 2), ["folder/mine.safetensors", "mine"]);
    assert.equal(JSON.stringify(workflow), before);
    assert.ok(templateOf({ loader, family: "qwen-image" }));
  }
  assert.equal(templateOf({ loader: { class_type: "UNETLoader" }, family: "flux" }), null);
});

const example = (name) => JSON.parse(readFileSync(new URL(`example_workflows/${name}.json`, root), "utf-8"));
const QWEN = { class_type: "UNETLoader", widget: "unet_name", value: "mine.safetensors" };
const CHECKPOINT = { class_type: "CheckpointLoaderSimple", widget: "ckpt_name", value: "all.safetensors" };

/** The class of the node behind each input of a node that is linked: {input: [class, slot]}. */
function inputsOfNode(workflow, type) {
  const node = workflow.nodes.find((found) => found.type === type);
  const linked = workflow.links.filter(([, , , to]) => to === node.id);
  const typeOf = (id) => workflow.nodes.find((found) => found.id === id).type;
  return Object.fromEntries(linked.map(([, from, slot, , input]) => [node.inputs[input].name, [typeOf(from), slot]]));
}

test("the comparing example gets both files, by place and by name", () => {
  const before = JSON.stringify(example("nvfp4_compare"));
  const workflow = example("nvfp4_compare");
  const filled = filledComparison(workflow, QWEN, { ...QWEN, value: "small.safetensors" }, true);
  const loaders = filled.nodes.filter(({ type }) => type === "UNETLoader");
  assert.deepEqual(loaders.map((node) => node.widgets_values[0]), ["mine.safetensors", "small.safetensors"]);
  assert.deepEqual(loaders.map((node) => node.widgets_values_named.unet_name), ["mine.safetensors", "small.safetensors"]);
  assert.deepEqual(filled.nodes.filter(({ mode }) => mode !== 0), []);
  assert.equal(JSON.stringify(workflow), before);
});

test("an all-in-one source brings its own text encoder and VAE into the comparison", () => {
  const filled = filledComparison(example("nvfp4_compare"), CHECKPOINT, { ...CHECKPOINT, value: "small.safetensors" }, false);
  const types = filled.nodes.map(({ type }) => type);
  assert.deepEqual(types.filter((type) => type.endsWith("Loader") || type === CHECKPOINT.class_type), [CHECKPOINT.class_type, CHECKPOINT.class_type]);
  assert.deepEqual(inputsOfNode(filled, "CLIPTextEncode"), { clip: [CHECKPOINT.class_type, 1] });
  assert.deepEqual(inputsOfNode(filled, "NVFP4Compare").vae, [CHECKPOINT.class_type, 2]);
  const { outputs } = filled.nodes.find(({ type }) => type === CHECKPOINT.class_type);
  const ends = outputs.map(({ links }, slot) => links.map((id) => filled.links.find(([found]) => found === id).slice(1, 3).at(1) === slot));
  assert.deepEqual(ends, [[true], [true, true], [true]]);
  assert.deepEqual(filled.nodes.filter(({ mode }) => mode === 4).map(({ type }) => type), ["ModelSamplingAuraFlow", "ModelSamplingAuraFlow"]);
});

test("the source of a result is the chosen one, else one of its folder, else any of that name", () => {
  const sources = ["checkpoints/a.safetensors", "diffusion_models/a.safetensors", "diffusion_models/sub/b.safetensors"].map((id) => ({ id }));
  const found = (file, chosen = null) => sourceOfResult(sources, file, "diffusion_models/x.safetensors", chosen);
  assert.equal(found("a.safetensors"), "diffusion_models/a.safetensors");
  assert.equal(found("a.safetensors", "checkpoints/a.safetensors"), "checkpoints/a.safetensors");
  assert.equal(found("b.safetensors", "checkpoints/a.safetensors"), "diffusion_models/sub/b.safetensors");
  assert.equal(found("gone.safetensors"), undefined);
});

test("an example's names are replaced where a workflow keeps them by name too", () => {
  const filled = filledTemplate(example("nvfp4_diffusion_model"), QWEN, "diffusion_models/mine.safetensors", "mine");
  const named = (type) => filled.nodes.find((node) => node.type === type).widgets_values_named;
  assert.equal(named("UNETLoader").unet_name, "mine.safetensors");
  assert.equal(named("NVFP4Calibrate").name, "mine");
  assert.deepEqual([named("NVFP4Convert").source, named("NVFP4Convert").calibration], ["diffusion_models/mine.safetensors", "mine"]);
});

test("a layer's numbers are told where they are known", () => {
  const layer = { source_format: "bfloat16", format: "nvfp4", reason: "rule", shape: [4096, 64], bytes_before: 524288, bytes_after: 147456 };
  const known = { ...layer, input_scale: 0.00123456, clip_rate: 0.00012, rounding: "gptq", predicted: { sqnr_db: 20, measured: true } };
  assert.deepEqual(Object.fromEntries(factsOf(known, t)), {
    format: "BF16 → NVFP4", reason: "rule", shape: "4,096 × 64", inputScale: "0.001235", clipRate: "0.012 %",
    measuredError: "20.0 dB", rounding: "gptq", size: "524 KB → 147 KB",
  });
  const kept = { ...layer, format: "bfloat16", input_scale: null, clip_rate: null, rounding: null, predicted: { sqnr_db: null } };
  assert.deepEqual(factsOf(kept, t).map(([key]) => key), ["format", "reason", "shape", "size"]);
});

test("numbers read as people write them, in their language", () => {
  assert.deepEqual([t.size(17), t.size(175232319), t.size(23802816640), t.size(999_999)], ["17 B", "175 MB", "23.8 GB", "1.0 MB"]);
  assert.deepEqual([t.duration(8), t.duration(141), t.duration(4000)], ["8 s", "2 min 21 s", "1 h 6 min"]);
  const german = createTranslator({ en: english }, "de");
  assert.equal(german.size(23802816640), "23,8 GB");
  const first = { done: 13_000, total: 139_000_000, rate: 34_600, remaining_s: 4000 };
  assert.deepEqual(runningTexts(t, first)[1], "");
  assert.deepEqual(runningTexts(t, { ...first, done: 69_500_000, rate: 10_400_000, remaining_s: 7 })[1], "10.4 MB/s · 7 s left");
});

test("a measurement starts with the node's defaults, and is offered for its own source", () => {
  const required = { source: ["COMBO", { options: ["a", "b"] }], old: [["c"], {}], name: ["STRING", { default: "" }] };
  const definition = { input: { required, optional: { overwrite: ["BOOLEAN", { default: false }] } } };
  assert.deepEqual(defaultsOf(definition), { source: "a", old: "c", name: "", overwrite: false });
  const all = [{ name: "x", source: "m.safetensors" }, { name: "y", source: "m.safetensors", problem: "bad" }, { name: "z", source: "n" }];
  assert.deepEqual(sensitivitiesOf(all, "checkpoints/m.safetensors").map(({ name }) => name), ["x"]);
});

test("texts are the language's own, then English, then the key; counts choose the form", () => {
  const french = createTranslator({ en: english, fr: { nvfp4Studio: { cancel: "Annuler" } } }, "fr");
  assert.deepEqual([french("cancel"), french("delete"), french("no.such")], ["Annuler", "Delete…", "no.such"]);
  assert.deepEqual([t("source.count", { count: 1 }), t("source.count", { count: 1200 })], ["1 model", "1,200 models"]);
});

test("the curve's points lie inside the drawing, larger files further right, better ones higher", () => {
  const area = { width: 100, height: 50, margin: { left: 10, right: 10, top: 5, bottom: 5 } };
  const places = placed([{ bytes: 1, quality_db: 10 }, { bytes: 3, quality_db: 30 }], area);
  assert.deepEqual(places.map(({ x, y }) => [x, y]), [[10, 45], [90, 5]]);
  const point = { bytes: 1, quality_db: 2 };
  const curve = { by_size: [point, { bytes: 1, quality_db: null }], recipes: [{ ...point, name: "r" }], chosen: point };
  assert.deepEqual(pointsOf(curve).map(({ kind }) => kind), ["budget", "recipe", "chosen"]);
  assert.deepEqual(pointsOf(null), []);
});

test("every text that a script asks for is there, and every text is asked for", () => {
  const folder = new URL("web/", root);
  const scripts = readdirSync(folder, { recursive: true }).filter((path) => path.endsWith(".js"));
  const code = scripts.map((path) => readFileSync(new URL(path.replaceAll("\\", "/"), folder), "utf-8")).join("\n");
  const keys = [];
  const walk = (tree, path) => {
    for (const [key, value] of Object.entries(tree)) {
      if (typeof value === "string" || "other" in value) keys.push([...path, key].join("."));
      else walk(value, [...path, key]);
    }
  };
  walk(english.nvfp4Studio, []);
  const asked = [...code.matchAll(/\bt\(\s*"([\w.-]+)"/g)].map(([, key]) => key);
  assert.deepEqual(asked.filter((key) => !keys.includes(key)), []);
  const computed = [...code.matchAll(/`([\w.]+\.)\$\{/g)].map(([, start]) => start);
  const unused = keys.filter((key) => !code.includes(`"${key}"`) && !computed.some((start) => key.startsWith(start)));
  assert.deepEqual(unused, []);
});

const SAID = {
  "first or last block": "erster oder letzter Block",
  'rule nvfp4: "attn.to_q"': "Regel nvfp4: „attn.to_q“",
  'text encoder, rule float8_e4m3fn: "mlp"': "Textencoder, Regel float8_e4m3fn: „mlp“",
  "missing quantization tag added: 1200 layers, first a.b": "fehlende Kennzeichnung der Quantisierung ergänzt: Schichten: 1.200, die erste a.b",
  "full_precision_matrix_mult set: ComfyUI would clamp activations at ±448 or cannot multiply E5M2: 3 layers, first a.b":
    "full_precision_matrix_mult gesetzt: ComfyUI würde Aktivierungen bei ±448 abschneiden oder kann E5M2 nicht multiplizieren: Schichten: 3, die erste a.b",
  "Add low-noise steps: nothing seen at noise levels 0.00-0.25 (let the sampler run to its last step).":
    "Es fehlen Schritte mit wenig Rauschen: auf den Rauschstufen 0.00-0.25 wurde nichts gesehen (lass den Sampler bis zum letzten Schritt laufen).",
  "a.b: never seen while calibrating, so its activations stay dynamic (NVFP4) or in full precision (FP8)":
    "a.b: beim Kalibrieren nie gesehen, daher bleiben die Aktivierungen dynamisch (NVFP4) oder in voller Genauigkeit (FP8)",
  "Collecting: step 3 of this sampling; so far 1 image": "Sammelt: Schritt 3 dieses Samplings; bisher 1 image",
  "Collecting: step 3 of this sampling": "Sammelt: Schritt 3 dieses Samplings",
  "What nobody knows: it stays.": "What nobody knows: it stays.",
  "Nobody said this already": "Nobody said this already",
};

test("the server's sentences are told in the user's language, and in English as they came", () => {
  const german = JSON.parse(readFileSync(new URL("locales/de/main.json", root), "utf-8"));
  const de = createTranslator({ en: english, de: german }, "de");
  for (const [sentence, wanted] of Object.entries(SAID)) {
    assert.equal(de.told(sentence), wanted);
    assert.equal(t.told(sentence), sentence);
  }
  assert.deepEqual([de.told(undefined), de.told(5)], ["", 5], "a report that somebody changed may hold anything");
  assert.equal(createTranslator({}, "fr").told("as it is"), "as it is");
});

test("no sentence takes long, whatever names stand in it", () => {
  const german = JSON.parse(readFileSync(new URL("locales/de/main.json", root), "utf-8"));
  const de = createTranslator({ en: english, de: german }, "de");
  for (const part of ["× is not divisible by ", "×", "a: ", "text encoder, ", "Not observed: : ", " has  GB free but the output needs "]) {
    // A regular expression needed 4 s for 2000 letters and the fourth power of their number for more.
    for (const length of [2000, 300_000]) assert.equal(typeof de.told(part.repeat(length / part.length)), "string");
  }
});
