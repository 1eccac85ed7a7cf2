// The comparing example with a source and the file that was converted from it.

import { fileOf } from "./model/sources.js";
import { changeValues } from "./template.js";

export const COMPARISON = "nvfp4_compare";
const ALL_IN_ONE = "CheckpointLoaderSimple";
const OUTPUTS = ["MODEL", "CLIP", "VAE"];
const BYPASSED = 4;
const SIDE = 1024;

/**
 * The source of a report, by the name that it keeps: the one that is chosen, else one in the folder of the converted
 * file, else any. Undefined where there is none any more.
 */
export function sourceOfResult(sources, file, result, chosen) {
  const named = sources.filter(({ id }) => id === file || fileOf(id) === file).map(({ id }) => id);
  const [folder] = result.split("/");
  return named.find((id) => id === chosen) ?? named.find((id) => id.startsWith(`${folder}/`)) ?? named[0];
}

/**
 * A copy of the comparing example with both files in loaders of their kind. An all-in-one source brings its own text
 * encoder and VAE. Only `qwen` models keep the example's shift of the schedule.
 */
export function filledComparison(workflow, source, converted, qwen) {
  const filled = structuredClone(workflow);
  const [first, second] = filled.nodes.filter(({ type }) => type === "UNETLoader");
  putInto(first, source);
  putInto(second, converted);
  for (const node of filled.nodes) {
    if (node.type === "ModelSamplingAuraFlow" && !qwen) node.mode = BYPASSED;
  }
  if (source.class_type === ALL_IN_ONE) takeFrom(filled, first);
  return filled;
}

/** Make a loader one of this kind, with its file. */
function putInto(node, loader) {
  if (loader.class_type === ALL_IN_ONE) {
    const [{ links }] = node.outputs;
    node.type = ALL_IN_ONE;
    node.properties = { "Node name for S&R": ALL_IN_ONE };
    node.inputs = [];
    node.outputs = OUTPUTS.map((type) => ({ name: type, type, links: type === "MODEL" ? links : [] }));
    node.widgets_values = [loader.value];
    delete node.widgets_values_named;
    return;
  }
  const [oldFile] = node.widgets_values;
  changeValues(node, (value) => (value === oldFile ? loader.value : value));
}

/** Text encoder and VAE come out of the checkpoint; the example's loaders of them go. */
function takeFrom(workflow, checkpoint) {
  for (const output of checkpoint.outputs.slice(1)) {
    const old = workflow.nodes.find(({ type }) => type === `${output.type}Loader`);
    for (const link of workflow.links.filter(([, from]) => from === old.id)) {
      link[1] = checkpoint.id;
      link[2] = OUTPUTS.indexOf(output.type);
      output.links.push(link[0]);
    }
    workflow.nodes.splice(workflow.nodes.indexOf(old), 1);
  }
  for (const node of workflow.nodes) {
    if (node.type === "EmptySD3LatentImage") changeValues(node, (value) => (value > SIDE ? SIDE : value));
  }
}
