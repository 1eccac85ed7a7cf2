// What every script below web/ keeps to. ComfyUI loads each of them as an extension of its own, so a file that is no
// extension must do nothing when it is imported; and text from a server or a file name is never read as HTML.

import js from "@eslint/js";
import globals from "globals";

const html = ["innerHTML", "outerHTML", "insertAdjacentHTML", "srcdoc"].map((property) => ({
  selector: `MemberExpression[property.name="${property}"]`,
  message: `${property} reads text as HTML: build elements and set textContent.`,
}));
const atImport = "Program > :not(ImportDeclaration, ExportNamedDeclaration, VariableDeclaration, FunctionDeclaration, ClassDeclaration)";

const rules = {
  eqeqeq: "error",
  "no-eval": "error",
  "no-implied-eval": "error",
  "no-new-func": "error",
  "no-script-url": "error",
  "no-shadow": "error",
  "no-var": "error",
  "object-shorthand": "error",
  "prefer-const": "error",
  "no-unused-vars": ["error", { argsIgnorePattern: "^_", ignoreRestSiblings: true }],
};

export default [
  { ignores: ["**/node_modules/**"] },
  js.configs.recommended,
  {
    files: ["web/**/*.js"],
    languageOptions: { sourceType: "module", globals: globals.browser },
    rules: {
      ...rules,
      "no-console": "error",
      "no-restricted-syntax": [
        "error",
        ...html,
        { selector: atImport, message: "A file that is no extension does nothing when it is imported." },
      ],
    },
  },
  {
    files: ["web/nvfp4_studio.js"],
    rules: {
      "no-restricted-syntax": [
        "error",
        ...html,
        {
          selector: `${atImport}:not([expression.callee.property.name="registerExtension"])`,
          message: "The only thing done at import is app.registerExtension.",
        },
      ],
    },
  },
  { files: ["tests/**/*.mjs"], languageOptions: { globals: globals.node }, rules },
  {
    files: ["tests/**/*.cjs"],
    languageOptions: { sourceType: "commonjs", globals: { ...globals.node, ...globals.browser } },
    rules,
  },
];
