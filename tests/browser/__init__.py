"""The console in a real browser: the distribution's Chromium on a running stack."""
