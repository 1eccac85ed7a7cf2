// The example workflows, with the user's own model in the place of the example's.

const BY_FAMILY = { "qwen-image": "nvfp4_diffusion_model", wan: "nvfp4_video" };
const ALL_IN_ONE = "nvfp4_calibrate_and_convert";

/** Change a node's values in the two ways in which a workflow keeps them: by place, and by name. */
export function changeValues(node, changed) {
  node.widgets_values = node.widgets_values.map(changed);
  const named = Object.entries(node.widgets_values_named ?? {}).map(([name, value]) => [name, changed(value)]);
  if (named.length) node.widgets_values_named = Object.fromEntries(named);
}

/** The example workflow for a model as its header describes it, null where none has the right text encoder. */
export function templateOf(header) {
  if (header?.loader?.class_type === "CheckpointLoaderSimple") return ALL_IN_ONE;
  const family = Object.keys(BY_FAMILY).find((name) => header?.family?.startsWith(name));
  return family ? BY_FAMILY[family] : null;
}

/**
 * A copy of an example workflow in which the first loader of this class, the conversion of its file and its
 * calibration have the user's names.
 */
export function filledTemplate(workflow, loader, source, calibration) {
  const filled = structuredClone(workflow);
  const first = filled.nodes.find((node) => node.type === loader.class_type);
  if (!first) return filled;
  const [oldFile] = first.widgets_values;
  const links = new Set(filled.links.filter(([, from]) => from === first.id).map(([, , , to]) => to));
  const behind = filled.nodes.find((node) => node.type === "NVFP4Calibrate" && links.has(node.id));
  const oldName = behind?.widgets_values[0];
  changeValues(first, (value) => (value === oldFile ? loader.value : value));
  for (const node of filled.nodes) {
    if (!node.type.startsWith("NVFP4")) continue;
    changeValues(node, (value) => {
      if (typeof value === "string" && value.endsWith(`/${oldFile}`)) return source;
      return value === oldName ? calibration : value;
    });
  }
  return filled;
}
