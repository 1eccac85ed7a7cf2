// Which nodes load a diffusion model, and which file they have chosen.

const FOLDERS = { ckpt_name: "checkpoints", unet_name: "diffusion_models" };

/** All nodes of a graph and of the subgraphs in it. */
export function nodesOf(graph) {
  return (graph?.nodes ?? []).flatMap((node) => [node, ...(node.subgraph ? nodesOf(node.subgraph) : [])]);
}

/** The number of a node's first MODEL output, -1 when it has none. */
export function modelOutput(node) {
  return (node.outputs ?? []).findIndex(({ type }) => type === "MODEL");
}

/** What a loader loads: {widget, source: "<folder>/<file>"}; null for every other node. */
export function loaderOf(node) {
  if (modelOutput(node) < 0) return null;
  const widget = node.widgets?.find(({ name }) => name in FOLDERS);
  if (!widget || typeof widget.value !== "string" || !widget.value) return null;
  return { widget, source: `${FOLDERS[widget.name]}/${widget.value}` };
}

/** The loaders of a graph and its subgraphs that have chosen this source. */
export function matchingLoaders(graph, source) {
  return nodesOf(graph).filter((node) => loaderOf(node)?.source === source);
}
