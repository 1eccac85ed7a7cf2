// Two pairs of pictures on NVFP4 Compare Images: drag the divider, use the keys and the buttons, reload the page.
// Called with one JSON argument by test_compare_slider.py; prints one JSON line.

const { chromium } = require("playwright-core");

const request = JSON.parse(process.argv[2]);
const NODE = 3;

const image = (id, colour) => ({
  id, type: "EmptyImage", pos: [0, 240 * id], size: [260, 160], flags: {}, order: id, mode: 0, inputs: [],
  outputs: [{ name: "IMAGE", type: "IMAGE", links: [id] }], properties: {}, widgets_values: [96, 64, 2, colour],
});
const WORKFLOW = {
  last_node_id: NODE, last_link_id: 2, groups: [], config: {}, extra: {}, version: 0.4,
  nodes: [image(1, 0x203040), image(2, 0x405060), {
    id: NODE, type: "NVFP4CompareImages", pos: [340, 0], size: [400, 700], flags: {}, order: 5, mode: 0, properties: {},
    inputs: [{ name: "source_images", type: "IMAGE", link: 1 }, { name: "converted_images", type: "IMAGE", link: 2 }],
    outputs: [{ name: "sheet", type: "IMAGE", links: [] }], widgets_values: [],
  }],
  links: [[1, 1, 0, NODE, 0, "IMAGE"], [2, 2, 0, NODE, 1, "IMAGE"]],
};

async function open(page, renderer) {
  const vue = renderer !== "canvas";
  await page.request.post(`${request.url}/api/settings/Comfy.VueNodes.Enabled`, { data: JSON.stringify(vue) });
  await page.goto(request.url);
  await page.waitForFunction(() => window.app?.vueAppReady && window.app.rootGraph, null, { timeout: 90000 });
  // Before the connection stands, the page would not hear that a quick prompt is done.
  await page.waitForFunction(() => window.app.api.clientId, null, { timeout: 90000 });
  await page.evaluate((workflow) => window.app.loadGraphData(workflow, true, true, "slider"), WORKFLOW);
}

const fit = async (page) => {
  await page.evaluate(() => window.app.extensionManager.command.execute("Comfy.Canvas.FitView"));
  await page.waitForTimeout(800);
};

async function visit(page, renderer) {
  await open(page, renderer);
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  const slider = page.getByRole("slider", { name: "Divider between both pictures" });
  await slider.waitFor({ timeout: 60000 });
  await fit(page);
  const seen = () =>
    slider.evaluate((stage) => ({
      place: Number(stage.getAttribute("aria-valuenow")),
      clip: stage.querySelectorAll("img")[1].style.clipPath,
      files: [...stage.querySelectorAll("img")].map((picture) => new URL(picture.src).searchParams.get("filename")),
      sizes: [...stage.querySelectorAll("img")].map((picture) => [picture.naturalWidth, picture.naturalHeight]),
    }));
  const nodePlace = () => page.evaluate((id) => [...window.app.rootGraph.getNodeById(id).pos], NODE);
  await page.waitForFunction(() => [...document.querySelectorAll(".nvfp4-compare img")].every((picture) => picture.naturalWidth));
  const result = { start: await seen(), before: await nodePlace() };

  const box = await slider.boundingBox();
  const y = box.y + box.height / 2;
  await page.mouse.move(box.x + box.width / 2, y);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width / 4, y, { steps: 4 });
  await page.mouse.up();
  await page.mouse.move(box.x + box.width * 0.9, y);
  result.dragged = await seen();
  result.after = await nodePlace();

  await slider.focus();
  result.keys = {};
  for (const key of ["ArrowRight", "Shift+ArrowLeft", "ArrowUp", "Control+ArrowLeft", "End", "Home", "PageDown"]) {
    await page.keyboard.press(key);
    result.keys[key] = await seen();
  }
  await page.getByRole("button", { name: "Next picture" }).click();
  result.turned = await seen();
  result.heard = await page.locator(".nvfp4-compare").getByRole("status").innerText();
  result.saved = await page.evaluate((id) => window.app.rootGraph.serialize().nodes.find((node) => node.id === id).widgets_values, NODE);
  return result;
}

(async () => {
  const browser = await chromium.launch({ executablePath: request.chromium, args: ["--no-sandbox"] });
  const errors = [];
  try {
    const page = await browser.newPage({ viewport: { width: 1300, height: 1000 } });
    page.on("pageerror", (error) => errors.push(String(error)));
    const found = {};
    for (const renderer of ["canvas", "nodes-2.0"]) found[renderer] = await visit(page, renderer);
    console.log(JSON.stringify({ ...found, errors }));
  } finally {
    await browser.close();
  }
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
