// Visits to the studio tab in ComfyUI's own frontend, by mouse and keyboard.
// Called with one JSON argument by test_studio.py; prints one JSON line.

const { chromium } = require("playwright-core");
const crypto = require("node:crypto");
const fs = require("node:fs");
const { parse } = require("node:path");

const request = JSON.parse(process.argv[2]);
const TAB = ".nvfp4-studio";
const SLOW = 90000;

const seen = { axe: [], errors: [], notes: {} };

const studio = (page) => page.locator(TAB);
const step = (page, name) => studio(page).getByRole("navigation").getByRole("button", { name });
const button = (page, name) => studio(page).getByRole("button", { name, exact: true });

async function shot(page, name) {
  if (!request.shots) return;
  await page.mouse.move(1100, 700);
  await page.waitForTimeout(350);
  await page.screenshot({ path: `${request.shots}/${name}.png` });
}

/** What axe-core holds against the tab as it is now. */
async function examine(page, where) {
  if (!request.axe) return;
  await page.waitForTimeout(200);
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(fs.readFileSync(request.axe, "utf8"));
  const found = await page.evaluate((selector) => window.axe.run(selector, { resultTypes: ["violations"] }), TAB);
  for (const { id, impact, nodes } of found.violations) {
    if (impact === "serious" || impact === "critical") seen.axe.push(`${where}: ${id} ${nodes[0].html}`);
  }
}

async function open(page) {
  await page.goto(request.url);
  await page.waitForFunction(() => window.app?.vueAppReady && window.app.rootGraph, null, { timeout: SLOW });
}

async function emptyCanvas(page) {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.NewBlankWorkflow"));
  await page.waitForFunction(() => window.app.rootGraph.nodes.length === 0);
}

async function openTab(page) {
  if (!(await studio(page).isVisible())) await page.getByRole("button", { name: "NVFP4 Studio" }).first().click();
  await studio(page).waitFor();
}

async function reopenTab(page) {
  await page.getByRole("button", { name: "NVFP4 Studio" }).first().click();
  await studio(page).waitFor({ state: "detached" });
  await openTab(page);
}

/** Choose a source by keyboard alone: type into the search field, go to the list, press Space. */
async function chooseByKeyboard(page, words) {
  await studio(page).getByRole("searchbox", { name: "Search models" }).focus();
  await page.keyboard.type(words);
  await page.waitForFunction(() => document.querySelectorAll(".nvfp4-studio .nvfp4-card").length === 1);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Space");
  await studio(page).getByRole("radio", { checked: true }).first().waitFor();
}

/** The card of a conversion, by the name of its file. */
const job = (page, name) => studio(page).locator(".nvfp4-jobs li", { hasText: name }).first();
const result = (page, name) => job(page, name).getByRole("button", { name: "Show the result" });

async function choose(page, name) {
  await step(page, "Source").click();
  await studio(page).getByRole("searchbox", { name: "Search models" }).fill("");
  await studio(page).getByRole("radiogroup", { name: "Models" }).getByText(name, { exact: true }).click();
}

/** Small and quick, as a user would set it on the nodes. */
const makeSmall = (page) =>
  page.evaluate(() => {
    for (const { comfyClass, widgets } of window.app.rootGraph.nodes) {
      const set = (name, value) => (widgets.find((widget) => widget.name === name).value = value);
      if (comfyClass === "EmptySD3LatentImage") ["width", "height"].forEach((name) => set(name, 128));
      if (comfyClass === "KSampler") set("steps", 8);
      if (comfyClass === "NVFP4Compare") set("steps", 2);
    }
  });

/** Press Run, and wait for what the server made of it. */
async function run(page) {
  const queued = page.waitForResponse((answer) => answer.url().endsWith("/api/prompt") && answer.request().method() === "POST");
  await page.getByTestId("queue-button").click();
  const { prompt_id: id } = await (await queued).json();
  const end = Date.now() + SLOW;
  while (Date.now() < end) {
    const history = await (await fetch(`${request.url}/history/${id}`)).json();
    if (history[id]?.status?.completed) return history[id];
    if (history[id]?.status?.status_str === "error") throw new Error(JSON.stringify(history[id].status));
    await page.waitForTimeout(150);
  }
  throw new Error(`prompt ${id} did not end`);
}

const imagesOf = (entry) => Object.values(entry.outputs).flatMap((output) => output.images ?? []).filter(({ type }) => type === "output");

/** The tab opens while the server still looks for results, and asks for headers of the models in view alone. */
async function firstLook(page) {
  let found;
  await page.route("**/nvfp4_studio/results", (route) => new Promise((resolve) => (found = resolve)).then(() => route.continue()), { times: 1 });
  const asked = [];
  const note = (sent) => sent.url().endsWith("/nvfp4_studio/source") && asked.push(sent.postDataJSON().id);
  page.on("request", note);
  const size = page.viewportSize();
  await page.setViewportSize({ ...size, height: 430 });
  await openTab(page);
  await studio(page).locator(".nvfp4-card-detail", { hasText: "·" }).first().waitFor();
  await page.waitForTimeout(500);
  seen.notes.early = Boolean(found);
  found();
  seen.notes.cards = await studio(page).locator(".nvfp4-card").count();
  seen.notes.asked = asked.length;
  page.off("request", note);
  const more = page.waitForRequest((sent) => sent.url().endsWith("/nvfp4_studio/source"));
  await page.setViewportSize(size);
  await studio(page).locator(".nvfp4-card").last().scrollIntoViewIfNeeded();
  await more;
}

/** From an empty canvas to an image of the converted file. */
async function path(page) {
  await emptyCanvas(page);
  await firstLook(page);
  await studio(page).getByText("Stable Diffusion 3", { exact: false }).first().waitFor();
  await examine(page, "source");
  await shot(page, "1-source");
  await chooseByKeyboard(page, request.source);
  await reopenTab(page);
  seen.notes.search = await studio(page).getByRole("searchbox", { name: "Search models" }).inputValue();
  await button(page, "Calibrate").last().click();

  seen.notes.detail = await studio(page).getByLabel("Detail", { exact: true }).inputValue();
  await button(page, "Open an example workflow").click();
  await page.waitForFunction(() => window.app.rootGraph.nodes.some((node) => node.comfyClass === "NVFP4Calibrate"));
  await makeSmall(page);
  await studio(page).getByLabel("Measure influence").check();
  const first = await run(page);
  await studio(page).getByText("layers seen").waitFor({ timeout: 20000 });
  await studio(page).locator(".nvfp4-badge", { hasText: "influence" }).waitFor({ timeout: 20000 });
  seen.notes.first = imagesOf(first).length;
  seen.notes.statistics = await studio(page).locator(".nvfp4-tile dd").allInnerTexts();
  seen.notes.bins = await studio(page).locator(".nvfp4-bin").count();
  await examine(page, "calibration");
  await shot(page, "2-calibration");
  await button(page, "Pause").click();
  await button(page, "Resume").waitFor();
  seen.notes.paused = await page.evaluate(() => window.app.rootGraph.nodes.find((node) => node.comfyClass === "NVFP4Calibrate").mode);

  await button(page, "Plan").last().click();
  await studio(page).locator(".nvfp4-group").first().waitFor();
  seen.notes.total = await studio(page).locator(".nvfp4-legend").textContent();
  seen.notes.rounded = await studio(page).getByText("Rounded by", { exact: false }).innerText();
  seen.notes.measurable = await button(page, "Measure errors").isEnabled();
  await examine(page, "plan");
  await shot(page, "3-plan");
  await pin(page);
  // Whatever is brought into view, the tab's own frame stays where it is.
  seen.notes.inPlace = await page.evaluate(() => document.querySelector(".nvfp4-footer").getBoundingClientRect().bottom === window.innerHeight);
  await studio(page).getByText("Release 1 pinned layer").waitFor();
  await page.waitForFunction((before) => document.querySelector(".nvfp4-legend").textContent !== before, seen.notes.total);
  seen.notes.pinned = await studio(page).locator(".nvfp4-legend").textContent();

  await button(page, "Convert").last().click();
  await studio(page).getByLabel("Name of the new file").fill(request.output);
  await examine(page, "convert");
  await button(page, "Convert with this plan").focus();
  await page.keyboard.press("Enter");
  await result(page, request.output).waitFor({ timeout: SLOW });
  await examine(page, "converted");
  await shot(page, "4-convert");
  await result(page, request.output).click();
  await studio(page).getByText("Verified:", { exact: false }).waitFor();
  seen.notes.worst = await studio(page).locator(".nvfp4-layer:visible").count();
  const plot = studio(page).locator('img[src*="result_plot"]').first();
  await plot.evaluate((image) => image.scrollIntoView());
  await plot.waitFor();
  await studio(page).locator(".nvfp4-content").evaluate((content) => (content.scrollTop = 0));
  await examine(page, "result");
  await shot(page, "5-result");
  await button(page, "Use it now").click();
  const loader = () => window.app.rootGraph.nodes.find((node) => node.comfyClass === "CheckpointLoaderSimple").widgets[0].value;
  await page.waitForFunction((name) => window.app.rootGraph.nodes.some((node) => node.widgets?.[0]?.value === name), `${request.output}.safetensors`);
  seen.notes.loader = await page.evaluate(loader);
  const last = await run(page);
  seen.notes.images = imagesOf(last).map(({ filename }) => filename);
  await compare(page);
  seen.notes.sampled = Object.values(last.prompt[2]).find((node) => node.class_type === "CheckpointLoaderSimple").inputs.ckpt_name;
}

/** Pin one layer by keyboard: open a group, choose a format in the list. */
async function pin(page) {
  const group = studio(page).getByRole("button", { name: /joint_blocks\.1/ });
  await group.focus();
  await page.keyboard.press("Enter");
  const format = studio(page).getByLabel("Format of joint_blocks.1.x_block.mlp.fc1", { exact: true });
  await format.selectOption("keep");
  const map = studio(page).locator(".nvfp4-map").first();
  await map.focus();
  for (const key of ["ArrowRight", "ArrowDown", "Enter"]) await page.keyboard.press(key);
  seen.notes.revealed = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  const details = studio(page).locator(".nvfp4-layer-details");
  await page.waitForFunction(() => document.querySelector(".nvfp4-layer-details img")?.naturalWidth > 100);
  seen.notes.histogram = await details.locator("img").getAttribute("alt");
  seen.notes.facts = await details.locator("dt").allInnerTexts();
  await examine(page, "layer");
  await shot(page, "3-layer");
  const name = seen.notes.revealed.split("joint_blocks.0.")[1];
  await studio(page).getByRole("button", { name, exact: true, expanded: true }).focus();
  await page.keyboard.press("Enter");
  await details.waitFor({ state: "detached" });
}

/** One press of Run in the comparing workflow shows the slider. */
async function compare(page) {
  await button(page, "Compare with the source").click();
  await page.waitForFunction(() => window.app.rootGraph.nodes.some((node) => node.comfyClass === "NVFP4Compare"));
  await makeSmall(page);
  const entry = await run(page);
  await page.waitForFunction(() => [...document.querySelectorAll(".nvfp4-compare img")].filter(({ naturalWidth }) => naturalWidth > 0).length === 2);
  const loaders = Object.values(entry.prompt[2]).filter((node) => node.class_type === "CheckpointLoaderSimple");
  seen.notes.compared = loaders.map((node) => node.inputs.ckpt_name);
  await shot(page, "6-compare");
}

/** Open the context menu of the first node with the mouse. */
async function rightClick(page) {
  const spot = await page.evaluate(() => {
    const { canvas, rootGraph } = window.app;
    const { scale, offset } = canvas.ds;
    const box = canvas.canvas.getBoundingClientRect();
    const [x, y] = rootGraph.nodes[0].pos;
    return { x: (x + 60 + offset[0]) * scale + box.left, y: (y - 12 + offset[1]) * scale + box.top };
  });
  await page.mouse.click(spot.x, spot.y, { button: "right" });
}

/** Menu commands of a loader: what they do to the graph, and back again. */
async function menu(page) {
  await emptyCanvas(page);
  await page.evaluate((source) => {
    const { app, LiteGraph } = window;
    app.canvas.ds.reset();
    const add = (type) => app.rootGraph.add(LiteGraph.createNode(type)) ?? app.rootGraph.nodes.at(-1);
    const loader = add("CheckpointLoaderSimple");
    loader.pos = [600, 300];
    loader.widgets[0].value = source.split("/")[1];
    for (const type of ["KSampler", "ModelSamplingSD3"]) loader.connect(0, add(type), 0);
  }, request.id);
  const entries = await page.evaluate(() => {
    const { app } = window;
    const extension = app.extensions.find((found) => found.name === "nvfp4-studio");
    const of = (node) => extension.getNodeMenuItems(node).map(({ content }) => content);
    window.studioMenu = (node, content) => extension.getNodeMenuItems(node).find((entry) => entry.content === content).callback();
    return { loader: of(app.rootGraph.nodes[0]), other: of(app.rootGraph.nodes[1]) };
  });
  await rightClick(page);
  await page.getByText("Calibrate for NVFP4…").click();
  await studio(page).getByText("Measuring into", { exact: false }).waitFor();
  const links = await page.evaluate(() => {
    const graph = window.app.rootGraph;
    const calibrate = graph.nodes.find((node) => node.comfyClass === "NVFP4Calibrate");
    const targets = (node) => node.outputs[0].links.map((id) => graph.getLink(id)).map((link) => graph.getNodeById(link.target_id).comfyClass);
    return { loader: targets(graph.nodes[0]), calibrate: targets(calibrate).sort(), name: calibrate.widgets[0].value };
  });
  await page.evaluate(() => window.studioMenu(window.app.rootGraph.nodes[0], "Add an NVFP4 Convert node"));
  await page.waitForFunction(() => window.app.rootGraph.nodes.some((node) => node.comfyClass === "NVFP4Convert"));
  const source = await page.evaluate(() => window.app.rootGraph.nodes.find((node) => node.comfyClass === "NVFP4Convert").widgets[0].value);
  await page.evaluate(() => window.studioMenu(window.app.rootGraph.nodes[0], "Use the converted file"));
  await page.waitForFunction((name) => window.app.rootGraph.nodes[0].widgets[0].value === name, `${request.output}.safetensors`);
  seen.notes.menu = { ...entries, links, source };
  await subgraph(page);
}

/** Calibrate by the menu of a loader inside a subgraph, whose model goes to samplers outside. */
async function subgraph(page) {
  await emptyCanvas(page);
  seen.notes.subgraph = await page.evaluate(async (source) => {
    const { app, LiteGraph } = window;
    const add = (type) => app.rootGraph.add(LiteGraph.createNode(type)) ?? app.rootGraph.nodes.at(-1);
    const loader = add("CheckpointLoaderSimple");
    loader.widgets[0].value = source.split("/")[1];
    loader.connect(0, add("KSampler"), 0);
    const { node, subgraph: inside } = app.rootGraph.convertToSubgraph(new Set([loader]));
    await window.studioMenu(inside.nodes[0], "Calibrate for NVFP4…");
    const calibrate = inside.nodes.find(({ comfyClass }) => comfyClass === "NVFP4Calibrate");
    const { output } = await app.graphToPrompt();
    const sampler = Object.values(output).find((entry) => entry.class_type === "KSampler");
    return { model: sampler.inputs.model, calibrate: `${node.id}:${calibrate.id}` };
  }, request.id);
  await studio(page).getByText("Measuring into", { exact: false }).waitFor();
}

/** A plan and a name that are refused, and that say so only as long as they are chosen. */
async function refused(page) {
  const before = seen.errors.length;
  const alert = () => studio(page).getByRole("alert").filter({ visible: true });
  const budget = studio(page).getByRole("textbox", { name: "Budget" });
  await step(page, "Plan").click();
  const map = studio(page).getByRole("heading", { name: "Block map" });
  await map.waitFor();
  await budget.fill("size<=tiny");
  seen.notes.refusedPlan = await alert().innerText();
  await map.waitFor({ state: "hidden" });
  await examine(page, "refused");
  await shot(page, "3-refused");
  await step(page, "Convert").click();
  seen.notes.refusedConvert = [await alert().innerText(), await button(page, "Convert with this plan").isDisabled()];
  await shot(page, "4-refused");
  await step(page, "Plan").click();
  await budget.fill("");
  await map.waitFor();
  await step(page, "Convert").click();
  await studio(page).getByLabel("Name of the new file").fill("../evil");
  await button(page, "Convert to NVFP4").click();
  seen.notes.refusedName = await alert().locator("div > span").first().innerText();
  await studio(page).getByLabel("Name of the new file").fill("");
  await alert().waitFor({ state: "hidden" });
  seen.errors.push(...seen.errors.splice(before).filter((text) => !/\b400\b/.test(text)));
}

/** What goes wrong, and what is taken back. */
async function troubles(page) {
  await openTab(page);
  await choose(page, "broken.safetensors");
  await studio(page).locator(".nvfp4-card", { hasText: "broken" }).locator(".nvfp4-card-note").waitFor();
  seen.notes.broken = await studio(page).locator(".nvfp4-card", { hasText: "broken" }).locator(".nvfp4-card-note").innerText();
  seen.notes.blocked = await step(page, "Plan").isDisabled();
  await choose(page, "flux.safetensors");
  await refused(page);
  await choose(page, "slow.safetensors");
  await step(page, "Convert").click();
  await button(page, "Convert to NVFP4").click();
  await button(page, "Cancel").waitFor();
  await choose(page, "flux.safetensors");
  await step(page, "Convert").click();
  await button(page, "Convert to NVFP4").click();
  await studio(page).getByRole("heading", { name: "Waiting" }).waitFor();
  await page.waitForFunction(() => Number(document.querySelector(".nvfp4-jobs [role=progressbar]")?.getAttribute("aria-valuenow")) > 2, null, { timeout: SLOW });
  seen.notes.spoken = await studio(page).locator(".nvfp4-hidden[role=status]").textContent();
  await examine(page, "running");
  await shot(page, "4-running");

  await open(page);
  await openTab(page);
  await button(page, "Cancel").waitFor();
  seen.notes.afterReload = await job(page, "slow-nvfp4").innerText();
  const other = await page.context().newPage();
  await open(other);
  await openTab(other);
  await job(other, "slow-nvfp4").getByRole("progressbar").waitFor({ timeout: SLOW });
  seen.notes.elsewhere = await job(other, "slow-nvfp4").innerText();
  await job(page, "slow-nvfp4").getByRole("button", { name: "Cancel" }).click();
  for (const shown of [page, other]) await job(shown, "slow-nvfp4").getByText("Cancelled, nothing was written").waitFor({ timeout: SLOW });
  await other.close();
  await result(page, "flux-nvfp4").waitFor({ timeout: SLOW });
  seen.notes.second = await job(page, "flux-nvfp4").innerText();

  await result(page, "flux-nvfp4").click();
  await studio(page).getByText("Verified:", { exact: false }).waitFor();
  await button(page, "Delete…").click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText("flux-nvfp4.safetensors", { exact: false }).waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "hidden" });
  seen.notes.kept = fs.existsSync(request.converted);
  await button(page, "Delete…").click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await studio(page).locator(".nvfp4-card", { hasText: "flux-nvfp4" }).waitFor({ state: "detached" });
  seen.notes.deleted = !fs.existsSync(request.converted);
  await step(page, "Convert").click();
  await result(page, "flux-nvfp4").waitFor({ state: "hidden" });
  seen.notes.gone = await job(page, "flux-nvfp4").innerText();
  await button(page, "Clear").click();
  await job(page, "flux-nvfp4").waitFor({ state: "detached" });
}

const checked = (page, list) => studio(page).getByRole("radiogroup", { name: list }).locator(".nvfp4-card", { has: page.getByRole("radio", { checked: true }) });

/** Ask for what a question comes before: refuse, then agree and wait for `then`. What became of the file each time? */
async function refuseAndAgree(page, what, file, press, then) {
  const { name } = parse(file);
  const state = () => fs.existsSync(file) && crypto.createHash("sha256").update(fs.readFileSync(file)).digest("hex");
  const dialog = page.getByRole("dialog");
  const notes = { before: state() };
  for (const [note, reply] of [["refused", "Cancel"], ["agreed", "Delete"]]) {
    await press(button(page, what));
    await dialog.getByText(name, { exact: false }).waitFor();
    await press(dialog.getByRole("button", { name: reply }));
    await dialog.waitFor({ state: "hidden" });
    if (note === "agreed") await then.waitFor();
    notes[note] = state();
  }
  return notes;
}

const calibrationFile = (name) => `${request.models}/nvfp4_calibration/${name}.safetensors`;
const calibrationSays = (page, text) => checked(page, "Calibration to use").getByText(text);
const byMouse = (target) => target.click();
const byKeys = (target) => target.press("Enter");

/** What is kept under a name of its own: merged calibrations, measured errors, a recipe. */
async function keeping(page) {
  await openTab(page);
  await choose(page, `${request.source}.safetensors`);
  await step(page, "Calibrate").click();
  await button(page, "Merge…").click();
  for (const name of request.calibrations) await studio(page).getByRole("checkbox", { name, exact: true }).check();
  await studio(page).getByLabel("Name of the merged calibration").fill("both");
  await examine(page, "merging");
  await button(page, "Merge").click();
  await studio(page).getByRole("radio", { name: /^both/, checked: true }).waitFor();
  await studio(page).getByText("layers seen").waitFor();
  seen.notes.merged = await studio(page).locator(".nvfp4-tile dd").first().innerText();
  await shot(page, "merged");

  await step(page, "Plan").click();
  await button(page, "Measure errors").click();
  const sensitivity = studio(page).getByLabel("Measured sensitivity");
  await page.waitForFunction(() => [...document.querySelectorAll(".nvfp4-studio select")].some((select) => select.value === "both"), null, { timeout: SLOW });
  seen.notes.measured = await sensitivity.inputValue();
  await studio(page).getByRole("textbox", { name: "Budget" }).fill(request.budget);
  await studio(page).locator(".nvfp4-dot-chosen").waitFor();
  seen.notes.budget = await studio(page).locator(".nvfp4-total").innerText();
  await examine(page, "budget");
  await shot(page, "budget");

  await button(page, "Save as recipe…").click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("textbox").fill("mine");
  await page.keyboard.press("Enter");
  const recipe = studio(page).getByLabel("Recipe", { exact: true });
  await recipe.locator('option[value="my/mine"]').waitFor({ state: "attached" });
  await studio(page).getByRole("textbox", { name: "Budget" }).fill("");
  await recipe.selectOption("my/mine");
  const release = studio(page).getByRole("button", { name: /^Release \d+ pinned layer/ });
  await release.click();
  await release.waitFor({ state: "hidden" });
  await button(page, "Delete recipe…").click();
  await dialog.getByRole("button", { name: "Delete" }).click();
  await recipe.locator('option[value="my/mine"]').waitFor({ state: "detached" });
  seen.notes.recipe = await recipe.inputValue();

  seen.notes.rounded = await studio(page).getByText("Rounded by", { exact: false }).innerText();
  await studio(page).getByText("More choices").click();
  const gain = studio(page).getByRole("checkbox", { name: /^Measure a gain/ });
  await gain.check();
  await examine(page, "more choices");
  await shot(page, "more");
  await button(page, "Convert").last().click();
  seen.notes.facts = await studio(page).locator(".nvfp4-facts:visible").innerText();
  await studio(page).getByLabel("Name of the new file").fill(request.gained);
  await button(page, "Convert to NVFP4").click();
  await result(page, request.gained).waitFor({ timeout: SLOW });
  await studio(page).getByLabel("Name of the new file").fill("");
  await step(page, "Plan").click();
  await gain.uncheck();
  const measured = `${request.models}/nvfp4_sensitivity/both.json`;
  seen.notes.unmeasured = await refuseAndAgree(page, "Delete sensitivity…", measured, byKeys, studio(page).locator("select:focus"));
  seen.notes.unmeasured.chosen = await sensitivity.inputValue();
  seen.notes.unmeasured.focus = (await page.evaluate(focused)).name;

  await step(page, "Calibrate").click();
  seen.notes.restarted = await refuseAndAgree(page, "Restart…", calibrationFile("both"), byKeys, calibrationSays(page, "Starts with the first sampling"));
  await fetch(`${request.url}/prompt`, { method: "POST", body: JSON.stringify({ prompt: request.sampling }) });
  const samplings = studio(page).locator(".nvfp4-tile dd").first();
  await samplings.waitFor({ timeout: SLOW });
  seen.notes.restarted.samplings = await samplings.innerText();
  const [first] = request.calibrations;
  await studio(page).getByRole("radiogroup", { name: "Calibration to use" }).getByText(first, { exact: true }).click();
  seen.notes.erased = await refuseAndAgree(page, "Delete…", calibrationFile(first), byMouse, calibrationSays(page, "Input scales are found while sampling"));
  const { calibrations } = await (await fetch(`${request.url}/nvfp4_studio/calibrations`)).json();
  const ours = ["both", ...request.calibrations];
  seen.notes.erased.others = calibrations.map(({ name }) => name).filter((name) => ours.includes(name));
}

/** What has the focus: its name for a screen reader, and whether it is seen that it has it. */
function focused() {
  const at = /** @type {any} */ (document.activeElement);
  const labels = [...(at.labels ?? [])].map((label) => label.innerText).join(" ");
  const name = at.getAttribute("aria-label") || labels || at.innerText || "";
  const drawn = [at, at.nextElementSibling, at.closest(".nvfp4-card")].filter(Boolean).map((part) => getComputedStyle(part));
  const lined = drawn.some(({ outlineStyle, outlineWidth }) => outlineStyle !== "none" && parseFloat(outlineWidth) > 0);
  return { name: name.trim().replace(/\s+/g, " "), inside: Boolean(at.closest(".nvfp4-content, .nvfp4-steps, .nvfp4-footer")), lined };
}

/** Press Tab until what has this name has the focus; each stop in the tab must be named and seen. */
async function tabTo(page, name) {
  for (let i = 0; i < 150; i += 1) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(focused);
    if (at.inside && !at.name) seen.notes.keys.nameless.push(i);
    if (at.inside && !at.lined) seen.notes.keys.unseen.push(at.name);
    if (name.test(at.name)) return;
  }
  throw new Error(`no Tab leads to ${name}`);
}

/** The whole path with Tab, Enter, Space and the arrow keys. */
async function keys(page) {
  const notes = (seen.notes.keys = { nameless: [], unseen: [] });
  const press = async (name, key = "Enter") => {
    await tabTo(page, name);
    await page.keyboard.press(key);
  };
  await open(page);
  await press(/^NVFP4 Studio$/);
  await tabTo(page, /^Search models$/);
  await page.keyboard.type(request.source);
  await page.waitForFunction(() => document.querySelectorAll(".nvfp4-studio .nvfp4-card").length === 1);
  await press(/^studio\.safetensors/, "Space");
  await press(/^Calibrate$/);
  await tabTo(page, /^None/);
  const list = "Calibration to use";
  while (!(await checked(page, list).innerText()).startsWith("both")) await page.keyboard.press("ArrowDown");
  notes.calibration = (await checked(page, list).innerText()).split("\n")[0];
  await press(/^Plan$/);
  await studio(page).locator(".nvfp4-group").first().waitFor();
  await press(/^joint_blocks\.1 /);
  await press(/^Format of joint_blocks\.1\.x_block\.mlp\.fc1$/, "k");
  const unpin = studio(page).getByText("Release 1 pinned layer");
  await unpin.waitFor();
  notes.pinned = await unpin.innerText();
  await press(/^Convert$/);
  await tabTo(page, /^Name of the new file/);
  await page.keyboard.type("by-keys");
  await press(/^Convert with this plan$/);
  await result(page, "by-keys").waitFor({ timeout: SLOW });
  await press(/^Show the result$/);
  await studio(page).getByText("Verified:", { exact: false }).waitFor();
  await press(/^Use it now$/);
  await page.waitForFunction(() => window.app.rootGraph.nodes.some((node) => node.widgets?.[0]?.value === "by-keys.safetensors"));
  notes.loader = true;
  await press(/^Delete…$/);
  await page.getByRole("dialog").waitFor();
  await press(/^Delete$/);
  await studio(page).locator(".nvfp4-card", { hasText: "by-keys" }).waitFor({ state: "detached" });
}

/** What the server says, in the language that ComfyUI has. */
async function language(page) {
  await page.evaluate((code) => window.app.extensionManager.setting.set("Comfy.Locale", code), request.language);
  await open(page);
  await openTab(page);
  const steps = studio(page).getByRole("navigation").getByRole("button");
  await steps.nth(1).click();
  await studio(page).locator(".nvfp4-tile dd").first().waitFor();
  const advice = await studio(page).locator(".nvfp4-advice:visible li, .nvfp4-panel .nvfp4-notice:visible").allInnerTexts();
  await shot(page, `calibration-${request.language}`);
  await steps.nth(2).click();
  const groups = studio(page).locator(".nvfp4-group-toggle");
  await groups.first().click();
  const reasons = [...new Set(await studio(page).locator(".nvfp4-layer .nvfp4-reason").allInnerTexts())];
  await shot(page, `plan-${request.language}`);
  seen.notes.language = { advice: advice.map((text) => text.trim()), reasons };
}

/** What a server that was killed left is offered, and goes on. */
async function resume(page) {
  await openTab(page);
  await choose(page, "flux.safetensors");
  await step(page, "Convert").click();
  await studio(page).getByRole("heading", { name: "Interrupted" }).waitFor();
  seen.notes.offered = await job(page, "killed").innerText();
  await examine(page, "interrupted");
  await shot(page, "4-interrupted");
  const { interrupted: [left] } = await (await fetch(`${request.url}/nvfp4_studio/conversions`)).json();
  seen.notes.kept = Math.round((100 * left.done) / left.total);
  await button(page, "Go on").click();
  await button(page, "Cancel").waitFor();
  await page.waitForFunction(() => Number(document.querySelector(".nvfp4-jobs [role=progressbar]")?.getAttribute("aria-valuenow")) > 0, null, { timeout: SLOW });
  seen.notes.resumed = Number(await studio(page).locator(".nvfp4-jobs [role=progressbar]").first().getAttribute("aria-valuenow"));
  await job(page, "killed").getByRole("button", { name: "Cancel" }).click();
  await job(page, "killed").getByText("Cancelled, nothing was written").waitFor({ timeout: SLOW });
}

/** The plan of a large model beside the example workflow that calibrates it: the README's picture. */
async function picture(page) {
  await emptyCanvas(page);
  await openTab(page);
  await chooseByKeyboard(page, request.source);
  await page.keyboard.press("Escape");
  await step(page, "Calibrate").click();
  await button(page, "Open an example workflow").click();
  await page.waitForFunction(() => window.app.rootGraph.nodes.some((node) => node.comfyClass === "NVFP4Calibrate"));
  await studio(page).getByRole("radiogroup", { name: "Calibration to use" }).getByText(request.source, { exact: true }).click();
  await step(page, "Plan").click();
  await studio(page).getByText("Rounded by", { exact: false }).waitFor();
  await widen(page, 130);
  await page.evaluate(() => {
    const { canvas } = window.app;
    const tab = document.querySelector(".nvfp4-studio").getBoundingClientRect();
    canvas.ds.scale = 0.7;
    canvas.ds.offset = [tab.right / canvas.ds.scale + 10, 170];
    canvas.setDirty(true, true);
  });
  await shot(page, "studio");
}

/** Drag the sidebar's edge to the right. */
async function widen(page, by) {
  const gutter = await page.locator(".p-splitter-gutter").first().boundingBox();
  const [x, y] = [gutter.x + gutter.width / 2, gutter.y + gutter.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x + by, y, { steps: 5 });
  await page.mouse.up();
}

const SCENES = { path, menu, troubles, keeping, keys, language, resume, picture };

(async () => {
  const browser = await chromium.launch({ executablePath: request.chromium, args: ["--no-sandbox"] });
  try {
    const context = await browser.newContext({ viewport: { width: request.width ?? 1500, height: request.height ?? 950 }, deviceScaleFactor: request.scale ?? 1 });
    context.setDefaultTimeout(20000);
    context.on("weberror", (error) => seen.errors.push(String(error.error())));
    context.on("response", (answer) => {
      if (answer.status() >= 400 && answer.url().includes("nvfp4")) seen.errors.push(`${answer.status()} ${answer.url()} ${answer.request().postData()}`);
    });
    context.on("console", (message) => {
      if (message.type() === "error" && message.location().url.includes("nvfp4")) seen.errors.push(message.text());
    });
    const page = await context.newPage();
    await open(page);
    try {
      for (const scene of request.scenes) await SCENES[scene](page);
    } catch (error) {
      await shot(page, "failed");
      throw error;
    }
    console.log(JSON.stringify(seen));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
