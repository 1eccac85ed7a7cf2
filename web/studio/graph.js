// The studio's hand on the workflow: loaders, the calibrate node behind one, a file put into one.

import { loaderOf, matchingLoaders, modelOutput, nodesOf } from "../lib/loaders.js";

const CALIBRATE = "NVFP4Calibrate";
const ACTIVE = 0;
const BYPASSED = 4;
const GAP = 40;
const ROOM = { width: 340, height: 160 };

/** `app` is the frontend's, `changed` tells it that the graph was changed. */
export function createGraph({ app, changed }) {
  const root = () => app.rootGraph ?? app.graph;
  const widgetOf = (node, name) => node.widgets?.find((widget) => widget.name === name);

  function setWidget(node, name, value) {
    const widget = widgetOf(node, name);
    if (!widget) return;
    if (Array.isArray(widget.options?.values) && !widget.options.values.includes(value)) widget.options.values.push(value);
    widget.value = value;
    widget.callback?.(value);
  }

  function add(type, graph, position) {
    const node = globalThis.LiteGraph.createNode(type);
    if (!node) return null;
    node.pos = position;
    graph.add(node);
    return node;
  }

  /** The middle of what is seen, so that a node without neighbours appears before the user's eyes; below what lies there. */
  function freePlace() {
    const [left, top, width, height] = app.canvas.visible_area ?? [0, 0, 600, 400];
    const x = left + (width - ROOM.width) / 2;
    let y = top + (height - ROOM.height) / 2;
    const nodes = (app.canvas.graph ?? root()).nodes ?? [];
    const beside = nodes.filter(({ pos, size }) => pos[0] < x + ROOM.width && pos[0] + size[0] > x);
    const covered = ({ pos, size }) => pos[1] - GAP < y + ROOM.height && pos[1] + size[1] + GAP > y;
    for (let other = beside.find(covered); other; other = beside.find(covered)) y = other.pos[1] + other.size[1] + GAP;
    return [x, y];
  }

  /** Where each link of a loader's model ends: {node, slot} at a node's input, {output} where it leaves a subgraph. */
  function targetsOf(loader) {
    const { graph } = loader;
    return (loader.outputs[modelOutput(loader)]?.links ?? [])
      .map((id) => graph.getLink(id))
      .filter(Boolean)
      .map(({ target_id: id, target_slot: slot }) =>
        id === graph.outputNode?.id ? { output: graph.outputNode.slots[slot] } : { node: graph.getNodeById(id), slot },
      )
      .filter(({ node, output }) => node ?? output);
  }

  /** The first calibrate node that a loader's model goes into, or null. */
  function calibrateBehind(loader) {
    return targetsOf(loader).find(({ node }) => node?.comfyClass === CALIBRATE)?.node ?? null;
  }

  /** Insert the calibrate node behind a loader and move all links of its model to it; a node that is there stays as it is. */
  function insertCalibrate(loader, name, detail = null) {
    const present = calibrateBehind(loader);
    if (present) {
      setPaused(present, false);
      show(present);
      return present;
    }
    const targets = targetsOf(loader);
    const place = [loader.pos[0], loader.pos[1] + loader.size[1] + GAP];
    const node = add(CALIBRATE, loader.graph, place);
    if (!node) return null;
    setWidget(node, "name", name);
    if (detail !== null) setWidget(node, "detail", detail);
    loader.connect(modelOutput(loader), node, 0);
    for (const target of targets) {
      if (target.output) target.output.connect(node.outputs[0], node);
      else node.connect(0, target.node, target.slot);
    }
    changed();
    show(node);
    return node;
  }

  /** Every calibrate node with the calibration that it fills, whether its model goes anywhere, and whether it is bypassed. */
  function calibrateNodes() {
    return nodesOf(root())
      .filter((node) => node.comfyClass === CALIBRATE)
      .map((node) => ({
        node,
        name: widgetOf(node, "name")?.value ?? "",
        connected: Boolean(node.outputs[0].links?.length),
        active: node.mode === ACTIVE,
      }));
  }

  function setPaused(node, paused) {
    node.mode = paused ? BYPASSED : ACTIVE;
    changed();
  }

  /** Select a node and bring it into view. */
  function show(node) {
    if (node.graph && app.canvas.graph !== node.graph) app.canvas.setGraph?.(node.graph);
    app.canvas.selectNode?.(node, false);
    app.canvas.centerOnNode?.(node);
    app.canvas.setDirty(true, true);
  }

  /** Put a file into a loader: the selected one, else the only one of its kind, else a new one. */
  function useFile({ class_type: type, widget, value }) {
    const selected = Object.values(app.canvas.selected_nodes ?? {});
    const all = nodesOf(root()).filter((node) => node.comfyClass === type && widgetOf(node, widget));
    const chosen = selected.find((node) => node.comfyClass === type) ?? (all.length === 1 ? all[0] : null);
    const node = chosen ?? add(type, app.canvas.graph ?? root(), freePlace());
    if (!node) return null;
    setWidget(node, widget, value);
    changed();
    show(node);
    return { node, added: !chosen };
  }

  /** A loader for a source that no loader has, with its file. */
  function addLoader({ class_type: type, widget, value }) {
    const node = add(type, app.canvas.graph ?? root(), freePlace());
    if (!node) return null;
    setWidget(node, widget, value);
    changed();
    return node;
  }

  /** A convert node below a loader, with the loader's file as its source and the calibration of the node behind it. */
  function addConvert(loader, source) {
    const node = add("NVFP4Convert", loader.graph, [loader.pos[0], loader.pos[1] + loader.size[1] + GAP]);
    if (!node) return;
    const behind = calibrateBehind(loader);
    const chosen = { source, calibration: behind && widgetOf(behind, "name")?.value };
    for (const [name, value] of Object.entries(chosen)) {
      const widget = widgetOf(node, name);
      if (widget?.options.values.includes(value)) widget.value = value;
    }
    changed();
    show(node);
  }

  return {
    root,
    addConvert,
    loadersOf: (source) => matchingLoaders(root(), source),
    sourceOf: (node) => loaderOf(node)?.source ?? null,
    isEmpty: () => nodesOf(root()).length === 0,
    calibrateBehind,
    insertCalibrate,
    calibrateNodes,
    setPaused,
    show,
    useFile,
    addLoader,
    setWidget,
  };
}
