import { defineConfig, type Plugin } from "vite";

/** The style sheet goes into the page: what is drawn first waits for no other file. */
const inlined: Plugin = {
  name: "inlined",
  enforce: "post",
  generateBundle(_, bundle) {
    const page = bundle["index.html"];
    for (const file of Object.values(bundle)) {
      if (page?.type !== "asset" || file.type !== "asset" || !file.fileName.endsWith(".css")) continue;
      page.source = String(page.source).replace(/<link rel="stylesheet".*?>/, () => `<style>${String(file.source).trim()}</style>`);
      delete bundle[file.fileName];
    }
  },
};

/** The page, and scripts that are named by their content: browsers keep those for good, and a rebuild can be compared with what is kept.

The licences of what the scripts hold lie beside them. */
export default defineConfig({
  base: "/console/",
  plugins: [inlined],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    target: "es2022",
    modulePreload: false,
    cssCodeSplit: false,
    assetsInlineLimit: 0,
    license: { fileName: "licenses.md" },
    rolldownOptions: {
      output: {
        hashCharacters: "hex",
        entryFileNames: "console-[hash].js",
        chunkFileNames: "[name]-[hash].js",
        assetFileNames: "[name]-[hash][extname]",
      },
    },
  },
});
