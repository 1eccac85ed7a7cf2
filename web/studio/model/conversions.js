// Step 4: conversions run in ComfyUI's own queue; the server knows their state, whatever page looks.

import { newestOnly } from "../store.js";
import { calibrationName } from "./calibrations.js";
import { planRequest, textEncoderOf } from "./plans.js";

/** The node's id in the queued prompt. No node of a workflow has it, so none is drawn as the one that runs. */
export const NODE_ID = "nvfp4_studio";
const KEPT_FINISHED = 20;
const NAME_LETTERS = 40;

/** Whether the plan is more than the node's own widgets can say. */
export function needsRecipe(choices) {
  return Object.keys(choices.pins).length > 0 || choices.budget.trim() !== "";
}

/**
 * The name of the recipe that a plan is converted with. A conversion reads its recipe when its turn comes, so every
 * plan has a name of its own: those that wait keep theirs, whatever is pinned meanwhile. No list shows this folder, and
 * the server empties it (nodes/studio/converted_plans.py).
 */
export function recipeNameOf(source, choices) {
  const file = [...calibrationName(source)].slice(0, NAME_LETTERS).join("").trim();
  return `.studio/${file}-${checksum(JSON.stringify(planRequest(source, choices)))}`;
}

/** FNV-1a of a text's UTF-16 units, eight hexadecimal digits. */
function checksum(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i += 1) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** The inputs of the convert node for a source and what was chosen; `defaults` are the server's. */
export function inputsOf(source, choices, defaults) {
  return {
    source,
    calibration: choices.calibration ?? "none",
    recipe: choices.recipe,
    input_scale: choices.input_scale ?? defaults.input_scale,
    rounding: choices.rounding ?? defaults.rounding,
    layout: choices.layout ?? defaults.layout,
    text_encoder: textEncoderOf(choices) ?? defaults.text_encoder,
    pre_quant: choices.pre_quant ?? defaults.pre_quant,
    gain: choices.gain,
    output_name: choices.output_name.trim(),
    overwrite: choices.overwrite,
  };
}

/** The prompt of one NVFP4Convert node that may convert once. */
export function promptOf(inputs, token) {
  const node = { class_type: "NVFP4Convert", inputs: { ...inputs, conversion_token: token }, _meta: { title: "NVFP4 Studio" } };
  return { [NODE_ID]: node };
}

/** What tells one conversion from another: a prompt may hold several convert nodes. */
export const keyOf = ({ prompt_id: prompt, node }) => `${prompt} ${node}`;

/** The conversions that ended, without those that were cleared from this page. */
export const endedOf = ({ conversions, cleared }) => conversions.finished.filter((entry) => !cleared.includes(keyOf(entry)));

/** The state after one event: an entry that runs, or one that ended. */
export function afterEvent(conversions, detail) {
  const { running, queued, finished, interrupted } = conversions;
  const others = (list) => list.filter((entry) => keyOf(entry) !== keyOf(detail));
  const ended = detail.state === "finished";
  return {
    interrupted,
    queued: others(queued),
    running: ended ? others(running) : upsert(running, detail),
    finished: ended ? [detail, ...others(finished)].slice(0, KEPT_FINISHED) : finished,
  };
}

function upsert(list, detail) {
  const known = list.some((entry) => keyOf(entry) === keyOf(detail));
  return known ? list.map((entry) => (keyOf(entry) === keyOf(detail) ? detail : entry)) : [...list, detail];
}

/** Starts, follows and ends conversions; `measuring` hears what the server measures. */
export function createConversions({ store, client, clientId, textOf, measuring, ended }) {
  const ask = newestOnly(() => client.conversions());

  async function refresh() {
    try {
      const found = await ask();
      if (!found) return;
      const { measuring: measured, ...conversions } = found;
      store.set({ conversions, conversionsError: null });
      measuring(measured);
    } catch (error) {
      store.set({ conversionsError: textOf(error) });
    }
  }

  async function start(source, choices) {
    let chosen = choices;
    if (needsRecipe(choices)) {
      const { id } = await client.saveRecipe(recipeNameOf(source, choices), planRequest(source, choices), true);
      chosen = { ...choices, recipe: id };
    }
    return queue(inputsOf(source, chosen, store.state.options.defaults));
  }

  /** Ask again for what was interrupted: the file in the making is found and continued. */
  const resume = ({ options }) => queue(options);

  async function queue(inputs) {
    const token = await client.token(NODE_ID);
    const answer = await client.queue({ client_id: clientId(), prompt: promptOf(inputs, token) });
    await refresh();
    return answer.prompt_id;
  }

  async function cancel(entry) {
    await client.cancel(entry.prompt_id);
    await refresh();
  }

  async function discard(id) {
    await client.discard(id);
    await refresh();
  }

  /** Show no more, on this page, what has ended by now. */
  function clear() {
    store.set(({ conversions }) => ({ cleared: conversions.finished.map(keyOf) }));
  }

  function live(detail) {
    store.set((state) => ({ conversions: afterEvent(state.conversions, detail) }));
    if (detail.state === "finished") ended(detail);
  }

  return { refresh, start, resume, cancel, discard, clear, live };
}
