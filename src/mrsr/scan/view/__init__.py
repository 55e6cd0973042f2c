"""See scans side by side: one page for a browser, with NiiVue in it."""
