// Step 4: conversions run in ComfyUI's own queue; the server knows their state, whatever page looks.

import { planRequest } from "./plans.js";

/** The node's id in the queued prompt. No node of a workflow has it, so none is drawn as the one that runs. */
export const NODE_ID = "nvfp4_studio";
const KEPT_FINISHED = 20;

/** Whether the plan is more than the node's own widgets can say. */
export function needsRecipe(choices) {
  return Object.keys(choices.pins).length > 0 || choices.budget.trim() !== "";
}

/** The prompt of one NVFP4Convert node. */
export function promptOf(source, choices, defaults, token) {
  const inputs = {
    source,
    calibration: choices.calibration ?? "none",
    recipe: choices.recipe,
    input_scale: choices.input_scale ?? defaults.input_scale,
    rounding: choices.rounding ?? defaults.rounding,
    layout: choices.layout ?? defaults.layout,
    output_name: choices.output_name.trim(),
    overwrite: choices.overwrite,
    conversion_token: token,
  };
  return { [NODE_ID]: { class_type: "NVFP4Convert", inputs, _meta: { title: "NVFP4 Studio" } } };
}

/** The state after one event: an entry that runs, or one that ended. */
export function afterEvent(conversions, detail) {
  const { running, queued, finished, interrupted } = conversions;
  const others = (list) => list.filter((entry) => entry.prompt_id !== detail.prompt_id);
  const ended = "seconds" in detail;
  return {
    interrupted,
    queued: others(queued),
    running: ended ? others(running) : upsert(running, detail),
    finished: ended ? [detail, ...others(finished)].slice(0, KEPT_FINISHED) : finished,
  };
}

function upsert(list, detail) {
  const known = list.some((entry) => entry.prompt_id === detail.prompt_id);
  return known ? list.map((entry) => (entry.prompt_id === detail.prompt_id ? detail : entry)) : [...list, detail];
}

/** Starts, follows and ends conversions. */
export function createConversions({ store, client, clientId, textOf, ended }) {
  async function refresh() {
    try {
      store.set({ conversions: await client.conversions(), conversionsError: null });
    } catch (error) {
      store.set({ conversionsError: textOf(error) });
    }
  }

  async function start(source, choices, recipeName) {
    let chosen = choices;
    if (needsRecipe(choices)) {
      const { id } = await client.saveRecipe(recipeName, planRequest(source, choices));
      chosen = { ...choices, recipe: id };
    }
    const token = await client.token(NODE_ID);
    const prompt = promptOf(source, chosen, store.state.options.defaults, token);
    const answer = await client.queue({ client_id: clientId(), prompt });
    await refresh();
    return answer.prompt_id;
  }

  async function cancel(entry) {
    const runs = store.state.conversions.running.some(({ prompt_id: id }) => id === entry.prompt_id);
    await (runs ? client.interrupt(entry.prompt_id) : client.unqueue(entry.prompt_id));
    await refresh();
  }

  async function discard(id) {
    await client.discard(id);
    await refresh();
  }

  function live(detail) {
    store.set((state) => ({ conversions: afterEvent(state.conversions, detail) }));
    if ("seconds" in detail) ended(detail);
  }

  return { refresh, start, cancel, discard, live };
}
