// The pack's routes. An answer that is no success becomes an error with the server's own sentence.

const PREFIX = "/nvfp4_studio";

/** An answer that is no success: `message` is one sentence, `status` the HTTP status, 0 where none came. */
export class RequestError extends Error {
  constructor(message, status, details = "") {
    super(message);
    this.name = "RequestError";
    this.status = status;
    this.details = details;
  }
}

/**
 * What ComfyUI says against a prompt, null where the answer is no such refusal. It says the same of each input that a
 * node's own check reads, with the input's name before the node's sentence.
 */
function refusalOf(answer) {
  const [first] = Object.values(answer?.node_errors ?? {}).flatMap(({ errors }) => errors);
  if (!first) return null;
  const before = `${first.extra_info?.input_name} - `;
  if (first.type === "custom_validation_failed" && first.details.startsWith(before)) return first.details.slice(before.length);
  return [first.message, first.details].filter(Boolean).join(": ");
}

/** `fetchApi` is ComfyUI's: it knows the server's address. */
export function createClient(fetchApi) {
  async function answerOf(path, options) {
    let response;
    try {
      response = await fetchApi(path, options);
    } catch (error) {
      throw new RequestError("The server does not answer: look whether ComfyUI is still running.", 0, String(error));
    }
    const raw = await response.text();
    let answer;
    try {
      answer = JSON.parse(raw);
    } catch {
      answer = null;
    }
    if (response.ok && answer !== null) return answer;
    const told = typeof answer?.error === "string" ? answer.error : (refusalOf(answer) ?? answer?.error?.message);
    const details = typeof answer?.error === "object" ? JSON.stringify(answer, null, 1) : answer ? "" : raw.slice(0, 2000);
    throw new RequestError(told || `The server answered ${response.status} to ${path}.`, response.status, details);
  }

  const get = (path) => answerOf(path, { cache: "no-store" });
  const post = (path, body) => answerOf(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const ours = (path) => `${PREFIX}/${path}`;

  return {
    sources: () => get(ours("sources")),
    source: (id) => post(ours("source"), { id }),
    calibrations: () => get(ours("calibrations")),
    calibration: (name) => post(ours("calibration"), { name }),
    mergeCalibrations: (names, into) => post(ours("calibrations/merge"), { names, into }),
    deleteCalibration: (name) => post(ours("calibrations/delete"), { name }),
    recipes: () => get(ours("recipes")),
    saveRecipe: (name, plan, overwrite = false) => post(ours("recipes/save"), { name, plan, overwrite }),
    deleteRecipe: (id) => post(ours("recipes/delete"), { id }),
    sensitivities: () => get(ours("sensitivities")),
    deleteSensitivity: (name) => post(ours("sensitivities/delete"), { name }),
    plan: (wanted) => post(ours("plan"), wanted),
    conversions: () => get(ours("conversions")),
    discard: (id) => post(ours("conversions/discard"), { id }),
    results: () => get(ours("results")),
    result: (id) => post(ours("result"), { id }),
    deleteResult: (id) => post(ours("results/delete"), { id }),
    token: async (node) => (await post(ours("conversion_token"), { node })).token,
    queue: (body) => post("/prompt", body),
    definition: async (node) => (await get(`/object_info/${node}`))[node],
    /** Ends a prompt whether it waits or runs; one that ended already stays as it is. */
    cancel: (promptId) => post(`/jobs/${encodeURIComponent(promptId)}/cancel`, {}),
    /** How a prompt ended: ComfyUI's {status_str, messages}, undefined for one that waits, runs or was removed. */
    outcome: async (promptId) => (await get(`/history/${encodeURIComponent(promptId)}`))[promptId]?.status,
  };
}

/** The address of a plot that the server draws. */
export function plotPath(route, values) {
  return `${PREFIX}/${route}?${new URLSearchParams(values)}`;
}
