// Execution ids: "5" in the root graph, "1:2:5" for node 5 inside subgraph node 2 inside subgraph node 1.

/** The path of subgraph nodes from `graph` down to the graph `target`, or null when it is not below. */
function pathTo(graph, target) {
  if (graph === target) return [];
  for (const node of graph.nodes ?? []) {
    if (!node.subgraph) continue;
    const below = pathTo(node.subgraph, target);
    if (below) return [String(node.id), ...below];
  }
  return null;
}

/** The execution id of a node. A subgraph that is used several times gives its first use. */
export function executionIdOf(rootGraph, node) {
  const path = node.graph ? pathTo(rootGraph, node.graph) : null;
  return [...(path ?? []), String(node.id)].join(":");
}

/** The node behind an execution id, or undefined. */
export function nodeByExecutionId(rootGraph, executionId) {
  let graph = rootGraph;
  let node;
  for (const part of String(executionId).split(":")) {
    node = (graph?.nodes ?? []).find((candidate) => String(candidate.id) === part);
    graph = node?.subgraph;
  }
  return node;
}

/** The node behind a locator of the output store: "5", or "<uuid of the subgraph>:5". */
export function nodeByLocator(rootGraph, locator) {
  const [first, second] = String(locator).split(":");
  const graph = second === undefined ? rootGraph : rootGraph.subgraphs?.get(first);
  return (graph?.nodes ?? []).find((candidate) => String(candidate.id) === (second ?? first));
}
