// One visit to ComfyUI's own frontend: load the example workflow, calibrate, press the button.
// Called with one JSON argument by test_walkthrough.py; prints one JSON line.

const { chromium } = require("playwright-core");

const request = JSON.parse(process.argv[2]);
const IMAGES = request.images ?? 3;
const NODE = { loader: 1, calibrate: 2, latent: 5, sampler: 6, convert: 9, report: 10 };

const statusOf = (page, id) =>
  page.evaluate(
    (key) => window.app.rootGraph.getNodeById(key)?.widgets?.find((w) => w.name === "nvfp4_status")?.element.textContent,
    id,
  );

async function waitForStatus(page, id, pattern, timeout = 90000) {
  const end = Date.now() + timeout;
  for (;;) {
    const text = await statusOf(page, id);
    if (text && pattern.test(text)) return text;
    if (Date.now() > end) throw new Error(`node ${id} shows ${JSON.stringify(text)}, not ${pattern}`);
    await page.waitForTimeout(100);
  }
}

async function load(page) {
  await page.evaluate(
    async ({ checkpoint, node }) => {
      const answer = await fetch("/api/workflow_templates/nvfp4-studio/nvfp4_calibrate_and_convert.json");
      const workflow = await answer.json();
      const widgets = (id) => workflow.nodes.find((n) => n.id === id).widgets_values;
      widgets(node.loader)[0] = checkpoint;
      widgets(node.convert)[0] = `checkpoints/${checkpoint}`;
      widgets(node.latent).splice(0, 2, 256, 256);
      widgets(node.sampler)[2] = 8;
      await window.app.loadGraphData(workflow, true, true, "nvfp4_calibrate_and_convert");
    },
    { checkpoint: request.checkpoint, node: NODE },
  );
  await page.waitForFunction((id) => window.app.rootGraph.getNodeById(id)?.widgets?.length, NODE.convert);
}

async function pressButton(page) {
  if (request.vue) {
    await page.getByRole("button", { name: "Convert to NVFP4" }).click();
    return;
  }
  const spot = await page.evaluate((id) => {
    const { app } = window;
    const node = app.rootGraph.getNodeById(id);
    const button = node.widgets.find((w) => w.type === "button");
    app.canvas.draw(true, true);
    const { scale, offset } = app.canvas.ds;
    const box = app.canvas.canvas.getBoundingClientRect();
    const x = (node.pos[0] + node.size[0] / 2 + offset[0]) * scale + box.left;
    const y = (node.pos[1] + button.y + 10 + offset[1]) * scale + box.top;
    return { x, y };
  }, NODE.convert);
  await page.mouse.click(spot.x, spot.y);
}

async function fit(page) {
  await page.mouse.move(1300, 975);
  await page.evaluate(() => window.app.canvas.deselectAll());
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(800);
}

/** The token in a posted prompt, of whichever node has one. */
function tokenOf({ prompt }) {
  return Object.values(prompt).map((node) => node.inputs?.conversion_token).find(Boolean) ?? null;
}

function workflowBox() {
  const { canvas, rootGraph } = window.app;
  const { scale, offset } = canvas.ds;
  const page = canvas.canvas.getBoundingClientRect();
  const [left, top, right, bottom] = rootGraph.groups
    .map(({ pos, size }) => [pos[0], pos[1], pos[0] + size[0], pos[1] + size[1]])
    .reduce((a, b) => [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])]);
  const x = Math.max(0, (left + offset[0]) * scale + page.left - 8);
  const y = Math.max(0, (top + offset[1]) * scale + page.top - 8);
  return { x, y, width: (right - left) * scale + 16, height: (bottom - top) * scale + 16 };
}

/** One node, large, for its help page. */
async function picture(page, id, file) {
  const clip = await page.evaluate((key) => {
    const { canvas, rootGraph } = window.app;
    const node = rootGraph.getNodeById(key);
    const [x, y, width, height] = node.boundingRect;
    canvas.ds.scale = Math.min(1.5, 800 / height);
    canvas.ds.offset = [100 / canvas.ds.scale - x, 150 / canvas.ds.scale - y];
    canvas.draw(true, true);
    const box = canvas.canvas.getBoundingClientRect();
    const place = (value, axis) => (value + canvas.ds.offset[axis]) * canvas.ds.scale;
    const size = (length) => (length + 20) * canvas.ds.scale;
    return { x: place(x - 10, 0) + box.left, y: place(y - 10, 1) + box.top, width: size(width), height: size(height) };
  }, id);
  await page.waitForTimeout(500);
  await page.screenshot({ path: file, clip });
}

function addFromMenu(id) {
  const { app } = window;
  const loader = app.rootGraph.getNodeById(id);
  const extension = app.extensions.find((found) => found.name === "nvfp4-studio");
  const item = extension.getNodeMenuItems(loader).find(({ content }) => content === "Add an NVFP4 Convert node");
  item.callback();
  const newest = app.rootGraph.nodes.filter((node) => node.comfyClass === "NVFP4Convert").at(-1);
  return { source: newest.widgets[0].value, other: extension.getNodeMenuItems(newest).length };
}

/** Put the convert node into a subgraph and press its button there. */
async function convertInSubgraph(page) {
  const id = await page.evaluate((key) => {
    const { app } = window;
    const node = app.rootGraph.getNodeById(key);
    node.widgets.find((widget) => widget.name === "output_name").value = "nested";
    app.rootGraph.convertToSubgraph(new Set([node]));
    const outer = app.rootGraph.nodes.find((candidate) => candidate.subgraph);
    const inner = outer.subgraph.nodes.find((candidate) => candidate.comfyClass === "NVFP4Convert");
    inner.widgets.find((widget) => widget.type === "button").callback();
    return `${outer.id}:${inner.id}`;
  }, NODE.convert);
  const end = Date.now() + 60000;
  for (;;) {
    const text = await page.evaluate(nestedText, id);
    if (/dB SQNR/.test(text ?? "") && /nested/.test(text)) return { id, text };
    if (Date.now() > end) throw new Error(`the nested node ${id} shows ${JSON.stringify(text)}`);
    await page.waitForTimeout(100);
  }
}

/** What a node inside a subgraph shows. */
function nestedText(id) {
  const [outer, inner] = id.split(":");
  const { subgraph } = window.app.rootGraph.nodes.find((node) => String(node.id) === outer);
  const node = subgraph.nodes.find((candidate) => String(candidate.id) === inner);
  return node.widgets.find((widget) => widget.name === "nvfp4_status")?.element.textContent;
}

/** Press the nested node's button with a name that the server refuses; what the node shows then. */
async function refused(page, id) {
  const answered = page.waitForResponse((answer) => answer.url().endsWith("/prompt") && answer.status() === 400);
  await page.evaluate(() => {
    const { subgraph } = window.app.rootGraph.nodes.find((node) => node.subgraph);
    const { widgets } = subgraph.nodes.find((node) => node.comfyClass === "NVFP4Convert");
    widgets.find((widget) => widget.name === "output_name").value = "../outside";
    widgets.find((widget) => widget.type === "button").callback();
  });
  await answered;
  await page.waitForTimeout(300);
  return page.evaluate(nestedText, id);
}

async function visit(page, errors) {
  page.on("pageerror", (error) => errors.push(String(error)));
  const prompts = [];
  page.on("request", (sent) => {
    if (sent.method() === "POST" && sent.url().endsWith("/prompt")) prompts.push(sent.postDataJSON());
  });
  await page.goto(request.url);
  await page.waitForFunction(() => window.app?.vueAppReady && window.app.rootGraph, null, { timeout: 90000 });
  await load(page);
  await fit(page);
  const run = (targets) => page.evaluate((ids) => window.app.queuePrompt(0, 1, ids), targets);
  const calibrated = [];
  for (let images = 1; images <= IMAGES; images++) {
    // A partial execution leaves the seed alone, and a cached sampler collects nothing.
    await page.evaluate(([id, seed]) => (window.app.rootGraph.getNodeById(id).widgets[0].value = seed), [NODE.sampler, images]);
    await run([String(NODE.report)]);
    calibrated.push(await waitForStatus(page, NODE.calibrate, new RegExp(`: ${images} images?, ${images * 8} steps`)));
  }
  const report = await waitForStatus(page, NODE.report, new RegExp(`: ${IMAGES} images`));
  await run([String(NODE.convert)]);
  const ordinary = await waitForStatus(page, NODE.convert, /does not convert/);
  await pressButton(page);
  const converted = await waitForStatus(page, NODE.convert, /dB SQNR/);
  const name = converted.split("\n")[0];
  await page.waitForFunction(
    ([id, wanted]) => window.app.rootGraph.getNodeById(id).widgets[0].options.values.includes(wanted),
    [NODE.loader, name],
    { timeout: 20000 },
  );
  if (request.screenshot) {
    await page.waitForTimeout(2500);
    await fit(page);
    await page.screenshot({ path: request.screenshot, clip: await page.evaluate(workflowBox) });
    for (const [file, node] of Object.entries(request.pictures)) await picture(page, NODE[node], file);
  }
  const saved = await page.evaluate(() => JSON.stringify(window.app.rootGraph.serialize()));
  const visible = request.vue ? await page.locator(".nvfp4-status", { hasText: "dB SQNR" }).isVisible() : true;
  const values = JSON.parse(saved).nodes.find((n) => n.id === NODE.convert).widgets_values;
  const added = await page.evaluate(addFromMenu, NODE.loader);
  const nested = await convertInSubgraph(page);
  const tokens = prompts.map(tokenOf);
  const targets = prompts.map((p) => p.partial_execution_targets);
  nested.refused = await refused(page, nested.id);
  return { added, nested, calibrated, report, ordinary, converted, tokens, targets, values, visible, saved_token: /conversion_token/.test(saved) };
}

(async () => {
  const browser = await chromium.launch({ executablePath: request.chromium, args: ["--no-sandbox"] });
  const errors = [];
  try {
    const page = await browser.newPage({ viewport: { width: 1600, height: 1000 }, deviceScaleFactor: request.scale ?? 1 });
    console.log(JSON.stringify({ ...(await visit(page, errors)), errors }));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
