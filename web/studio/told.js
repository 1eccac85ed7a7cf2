// What the server says in English, in the user's language. Its sentences are texts of the locale like all others: the
// English one, with {names} for what changes, tells which sentence it is, and one that none of them fits stays as it is.

/**
 * {count} stands for a whole number, {layer} and {format} for one word, {thing} for words in small letters, other names
 * for anything, also for a sentence of its own.
 */
const VALUES = { count: /^\d+$/, layer: /^\S+$/, format: /^\S+$/, thing: /^[a-z ]+$/ };
const ANY = /^/;

/** Names of layers and files stand in sentences, and files can be made to have any: what is longer stays as it is. */
const LONGEST = 2000;
/** How deep sentences stand in sentences: layers in a note, a note in its reason, that in what a method lacks. */
const DEEPEST = 4;

/** The templates of the locale's groups, those with the most letters of their own first: [{key, names, texts}]. */
function templatesOf(groups) {
  const found = Object.entries(groups).flatMap(([group, texts]) =>
    Object.entries(texts).map(([name, text]) => templateOf(`${group}.${name}`, text)),
  );
  return found.sort((a, b) => b.letters - a.letters);
}

function templateOf(key, text) {
  // Split by a group, odd parts are the names between the texts.
  const parts = text.split(/\{(\w+)\}/);
  const names = parts.filter((_, i) => i % 2);
  const texts = parts.filter((_, i) => i % 2 === 0);
  return { key, names, texts, letters: texts.join("").length };
}

/**
 * What stands for the names of a template, null where it does not fit. Each takes as much as it can, as in a regular
 * expression, which would need time to a power of the number of names for a sentence made to be slow.
 */
function valuesIn({ names, texts }, sentence) {
  const last = texts.length - 1;
  const end = sentence.length - texts[last].length;
  if (!sentence.startsWith(texts[0]) || !sentence.endsWith(texts[last])) return null;
  if (!names.length) return sentence.length === texts[0].length ? [] : null;
  const failed = names.map(() => new Set());

  function from(i, start) {
    if (failed[i].has(start)) return null;
    const fits = VALUES[names[i]] ?? ANY;
    const next = texts[i + 1];
    let at = i + 1 === last ? end : sentence.lastIndexOf(next, end - next.length);
    while (at >= start) {
      const value = sentence.slice(start, at);
      const others = fits.test(value) ? (i + 1 === last ? [] : from(i + 1, at + next.length)) : null;
      if (others) return [value, ...others];
      at = i + 1 < last && at > start ? sentence.lastIndexOf(next, at - 1) : -1;
    }
    failed[i].add(start);
    return null;
  }

  return from(0, texts[0].length);
}

/** A function from a sentence of the server to the user's; `translate(key, values)` gives the text of a template. */
export function createTold(groups, translate) {
  const templates = templatesOf(groups);
  const known = new Map();

  function found(sentence, depth) {
    if (depth > DEEPEST) return sentence;
    for (const template of templates) {
      const values = valuesIn(template, sentence);
      if (!values) continue;
      const told = template.names.map((name, i) => [name, name === "count" ? Number(values[i]) : found(values[i], depth + 1)]);
      return translate(`told.${template.key}`, Object.fromEntries(told));
    }
    return sentence;
  }

  return function told(sentence) {
    if (!sentence || typeof sentence !== "string" || sentence.length > LONGEST) return sentence ?? "";
    if (!known.has(sentence)) known.set(sentence, found(sentence, 0));
    return known.get(sentence);
  };
}
