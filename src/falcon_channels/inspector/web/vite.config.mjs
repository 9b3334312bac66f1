// The packages of this build are those of the chat: see scripts/web_pages.py.
export default {
  base: './',
  build: {
    outDir: '../page',
    emptyOutDir: true,
    // No inline data: the Content-Security-Policy allows files of this site only.
    assetsInlineLimit: 0,
    modulePreload: false,
    target: 'es2022',
  },
};
