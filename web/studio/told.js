// What the server says in English, in the user's language. Its sentences are texts of the locale like all others: the
// English one, with {names} for what changes, tells which sentence it is, and one that none of them fits stays as it is.

/** {count} stands for a whole number, these for one word, other names for anything, also for a sentence of its own. */
const VALUES = { count: "(\\d+)", layer: "(\\S+)", format: "(\\S+)" };
const ANY = "(.*)";

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");

/** The templates of the locale's groups, those with the most letters of their own first: [{key, names, pattern}]. */
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
  const source = parts.map((part, i) => (i % 2 ? (VALUES[part] ?? ANY) : escaped(part))).join("");
  return { key, names, pattern: new RegExp(`^${source}$`, "s"), letters: text.replace(/\{\w+\}/g, "").length };
}

/** A function from a sentence of the server to the user's; `translate(key, values)` gives the text of a template. */
export function createTold(groups, translate) {
  const templates = templatesOf(groups);
  const known = new Map();

  function found(sentence) {
    for (const { key, names, pattern } of templates) {
      const match = pattern.exec(sentence);
      if (!match) continue;
      const values = names.map((name, i) => [name, name === "count" ? Number(match[i + 1]) : told(match[i + 1])]);
      return translate(`told.${key}`, Object.fromEntries(values));
    }
    return sentence;
  }

  function told(sentence) {
    if (!sentence) return "";
    if (!known.has(sentence)) known.set(sentence, found(sentence));
    return known.get(sentence);
  }

  return told;
}
