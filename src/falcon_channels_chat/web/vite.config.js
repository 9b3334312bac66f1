import { defineConfig } from 'vite';

export default defineConfig({
  build: {
    outDir: '../page',
    emptyOutDir: true,
    // No inline data: the Content-Security-Policy allows files of this site only.
    assetsInlineLimit: 0,
    modulePreload: false,
    target: 'es2022',
  },
});
