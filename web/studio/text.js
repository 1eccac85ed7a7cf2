// Numbers as people read them, and the interface's sentences in the user's language.

import { createTold } from "./told.js";

const UNITS = ["B", "KB", "MB", "GB", "TB"];

/** Formatters for one locale. Sizes are decimal, as shops and file managers count them. */
export function createFormats(locale) {
  const numbers = new Map();
  const number = (value, digits = 0) => {
    if (!numbers.has(digits)) {
      const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
      numbers.set(digits, new Intl.NumberFormat(locale, options));
    }
    return numbers.get(digits).format(value);
  };

  function size(bytes) {
    let unit = 0;
    let value = bytes;
    while (value >= 999.5 && unit < UNITS.length - 1) {
      value /= 1000;
      unit += 1;
    }
    return `${number(value, unit === 0 || value >= 99.95 ? 0 : 1)} ${UNITS[unit]}`;
  }

  function duration(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${number(whole)} s`;
    if (whole < 3600) return `${number(Math.floor(whole / 60))} min ${number(whole % 60)} s`;
    return `${number(Math.floor(whole / 3600))} h ${number(Math.floor((whole % 3600) / 60))} min`;
  }

  const fewDigits = new Intl.NumberFormat(locale, { maximumSignificantDigits: 4 });

  return {
    number,
    significant: (value) => fewDigits.format(value),
    size,
    duration,
    rate: (bytesPerSecond) => `${size(bytesPerSecond)}/s`,
    percent: (share, digits = 0) => `${number(share * 100, digits)} %`,
    decibels: (value) => `${number(value, 1)} dB`,
  };
}

const lookUp = (messages, key) => key.split(".").reduce((found, part) => found?.[part], messages);

/**
 * `t(key, values)`: the message of the locale, else the English one, with {name} replaced; a message object with
 * `one` and `other` is chosen by `values.count`. `t.told(sentence)`: a sentence of the server.
 */
export function createTranslator(messages, locale) {
  const language = locale.split("-")[0];
  const chain = [messages[locale], messages[language], messages.en].map((tree) => tree?.nvfp4Studio);
  const rules = new Intl.PluralRules(locale);
  const formats = createFormats(locale);

  function translate(key, values = {}) {
    const found = chain.map((tree) => lookUp(tree, key)).find((message) => message !== undefined) ?? key;
    const text = typeof found === "object" ? (found[rules.select(values.count)] ?? found.other) : found;
    return String(text).replace(/\{(\w+)\}/g, (all, name) => {
      const value = values[name];
      if (value === undefined) return all;
      return typeof value === "number" ? formats.number(value) : String(value);
    });
  }

  const english = messages.en?.nvfp4Studio?.told ?? {};
  const told = language === "en" ? (sentence) => sentence ?? "" : createTold(english, translate);
  return Object.assign(translate, formats, { told, has: (key) => chain.some((tree) => lookUp(tree, key) !== undefined) });
}

/** The name of a stored format or source type as users know it. */
export function formatName(format) {
  const known = { float8_e4m3fn: "FP8", float8_e5m2: "FP8 E5M2", bfloat16: "BF16", float16: "FP16", float32: "FP32" };
  return known[format] ?? format.toUpperCase().replaceAll("_", " ");
}
