import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { showComparison } from "./lib/compare.js";
import { executionIdOf, nodeByExecutionId, nodeByLocator } from "./lib/graph.js";
import { makeOwners } from "./lib/owners.js";
import { showStatus, statusOf } from "./lib/status.js";
import { makeTicket } from "./lib/ticket.js";
import { openStudio } from "./studio/studio.js";

const NODES = new Set([
  "NVFP4Calibrate",
  "NVFP4Convert",
  "NVFP4CalibrationReport",
  "NVFP4Sensitivity",
  "NVFP4Compare",
  "NVFP4CompareImages",
]);
const BUTTONS = {
  NVFP4Convert: { name: "convert", label: "node.convert", help: "node.convertHelp" },
  NVFP4Sensitivity: { name: "measure", label: "node.measure", help: "node.measureHelp" },
};
const STATUS_EVENT = "nvfp4_studio.status";
const REFRESH_EVENT = "nvfp4_studio.refresh";
const STATUS_OUTPUT = "nvfp4_status";
const SLIDER_OUTPUT = "nvfp4_slider";
const TOKEN_ROUTE = "/nvfp4_studio/conversion_token";

const rootGraph = () => app.rootGraph ?? app.graph;
const studio = openStudio(app, api, new URL("./", import.meta.url));
const owners = makeOwners(
  () => app.extensionManager.workflow.activeWorkflow,
  async () => (await api.fetchApi("/queue")).json(),
);

/** What the server says on a node, line by line in the user's language. */
const told = (text) => text.split("\n").map(studio.t.told).join("\n");

function showOutput(node, output) {
  const lines = output?.[STATUS_OUTPUT];
  if (node && lines?.length) showStatus(node, told(lines.join("\n")));
  const [slider] = output?.[SLIDER_OUTPUT] ?? [];
  if (node && slider) showComparison(node, slider, (path) => api.apiURL(path), studio.t);
}

function complain(detail) {
  app.extensionManager.toast.add({ severity: "error", summary: "NVFP4 Studio", detail, life: 8000 });
}

async function askForToken(node) {
  const response = await api.fetchApi(TOKEN_ROUTE, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ node }),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer.token;
}

async function queueAlone(node, ticket) {
  const id = executionIdOf(rootGraph(), node);
  try {
    ticket.put(await askForToken(id));
  } catch (error) {
    complain(studio.t("node.refused", { error: error.message }));
    return;
  }
  await app.queuePrompt(0, 1, [id]);
}

function addButton(node, { name, label, help }) {
  let before;
  const ticket = makeTicket((token) => {
    // The server may have told more by now.
    if (statusOf(node) === before) showStatus(node, studio.t("node.queued"));
    return owners.note(token);
  });
  node.addCustomWidget(ticket);
  const press = () => {
    before = statusOf(node);
    return queueAlone(node, ticket);
  };
  const button = node.addWidget("button", name, null, press, { serialize: false });
  button.label = studio.t(label);
  button.serialize = false;
  button.tooltip = studio.t(help);
}

app.registerExtension({
  name: "nvfp4-studio",

  async setup() {
    api.addEventListener(STATUS_EVENT, ({ detail }) => {
      if (!owners.isInView(detail.prompt_id)) return;
      const node = nodeByExecutionId(rootGraph(), detail.node);
      if (node && NODES.has(node.comfyClass)) showStatus(node, told(detail.text));
    });
    api.addEventListener(REFRESH_EVENT, () => app.refreshComboInNodes());
    await studio.setup();
  },

  nodeCreated(node) {
    if (!NODES.has(node.comfyClass)) return;
    const button = BUTTONS[node.comfyClass];
    if (button) addButton(node, button);
    const onExecuted = node.onExecuted;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      showOutput(this, output);
    };
  },

  getNodeMenuItems: (node) => studio.menuItems(node),

  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs)) showOutput(nodeByLocator(rootGraph(), locator), output);
  },
});
