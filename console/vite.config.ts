import { defineConfig } from "vite";

/** One script and one style sheet under fixed names: the origin serves exactly these, and a rebuild can be compared with what is kept.

The licences of what the script holds lie beside it. */
export default defineConfig({
  base: "/console/",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    license: { fileName: "licenses.md" },
    rolldownOptions: {
      output: { codeSplitting: false, entryFileNames: "console.js", assetFileNames: "console[extname]" },
    },
  },
});
