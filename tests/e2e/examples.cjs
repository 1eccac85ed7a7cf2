// Load every example workflow in ComfyUI's own frontend, as a click on the template does, and tell what came of it.
// Called with one JSON argument by test_example_workflows.py; prints one JSON line.

const { chromium } = require("playwright-core");
const path = require("node:path");

const request = JSON.parse(process.argv[2]);

/** What the frontend made of a workflow file: nodes it does not know, values that moved, and the prompt it would queue. */
async function loaded(name) {
  const { app, LiteGraph } = window;
  const workflow = await (await fetch(`/api/workflow_templates/nvfp4-studio/${name}.json`)).json();
  const file = structuredClone(workflow);
  await app.loadGraphData(workflow, true, true, name);
  const nodes = app.rootGraph.nodes;
  const kept = (node) => file.nodes.find(({ id }) => String(id) === String(node.id))?.widgets_values ?? [];
  const saved = new Map(app.rootGraph.serialize().nodes.map((node) => [String(node.id), node.widgets_values ?? []]));
  return {
    unknown: nodes.filter((node) => !LiteGraph.registered_node_types[node.type]).map((node) => node.type),
    nodes: [nodes.length, file.nodes.length],
    links: [app.rootGraph.links.size, file.links.length],
    moved: nodes.filter((node) => JSON.stringify(saved.get(String(node.id))) !== JSON.stringify(kept(node))).map((node) => node.type),
    prompt: (await app.graphToPrompt()).output,
  };
}

/** Where the groups of the graph lie on the page. */
function box() {
  const { canvas, rootGraph } = window.app;
  const { scale, offset } = canvas.ds;
  const page = canvas.canvas.getBoundingClientRect();
  const sides = rootGraph.groups.map(({ pos, size }) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]]);
  const [left, top, right, bottom] = [Math.min, Math.min, Math.max, Math.max].map((pick, i) => pick(...sides.map((side) => side[i])));
  const x = Math.max(0, (left + offset[0]) * scale + page.left - 8);
  const y = Math.max(0, (top + offset[1]) * scale + page.top - 8);
  return { x, y, width: (right - left) * scale + 16, height: (bottom - top) * scale + 16 };
}

async function thumbnail(page, name) {
  await page.mouse.move(1500, 960);
  await page.evaluate(() => window.app.canvas.deselectAll());
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(800);
  const file = path.join(request.thumbnails, `${name}.jpg`);
  await page.screenshot({ path: file, type: "jpeg", quality: 80, clip: await page.evaluate(box) });
}

async function open(page) {
  await page.goto(request.url);
  await page.waitForFunction(() => window.app?.vueAppReady && window.app.rootGraph, null, { timeout: 90000 });
}

/** The convert node's title, first input, button and help page as this language's user sees them. */
async function inLanguage(page, language) {
  await page.evaluate((code) => window.app.extensionManager.setting.set("Comfy.Locale", code), language);
  await open(page);
  return page.evaluate(async (code) => {
    const node = window.LiteGraph.createNode("NVFP4Convert");
    const button = node.widgets.find(({ type }) => type === "button");
    const help = await (await fetch(`/extensions/nvfp4-studio/docs/NVFP4Convert/${code}.md`)).text();
    return { title: node.title, source: node.widgets[0].label, button: button.label, help: help.split("\n")[0] };
  }, language);
}

(async () => {
  const browser = await chromium.launch({ executablePath: request.chromium, args: ["--no-sandbox"] });
  const errors = [];
  try {
    const page = await browser.newPage({ viewport: { width: 1600, height: 1000 } });
    page.on("pageerror", (error) => errors.push(String(error)));
    await open(page);
    const workflows = {};
    for (const name of request.names) {
      workflows[name] = await page.evaluate(loaded, name);
      workflows[name].dialogs = await page.locator('[role="dialog"]:visible').allInnerTexts();
      if (request.thumbnails) await thumbnail(page, name);
    }
    const languages = {};
    for (const language of request.languages) languages[language] = await inLanguage(page, language);
    console.log(JSON.stringify({ workflows, languages, errors }));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
