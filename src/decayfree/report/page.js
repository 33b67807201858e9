// Draws the charts of the page in its colors, again when the color scheme changes, and hides or shows a method everywhere.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const hidden = new Set();

  // "var(--m0)" and "var(--m0)26" (a color with its opacity in hex) become what the style sheet says now.
  function painted(value, style) {
    if (typeof value === "string") {
      return value.replace(/^var\((--[\w-]+)\)(?=$|[0-9a-f]{2}$)/, (_, name) => style.getPropertyValue(name).trim());
    }
    if (Array.isArray(value)) {
      return typeof value[0] === "number" || value[0] === null ? value : value.map((item) => painted(item, style));
    }
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item, style)]));
    }
    return value;
  }

  function draw() {
    const root = document.documentElement, style = getComputedStyle(root), isPrinting = root.hasAttribute("data-print");
    return Promise.all(Object.entries(figures).map(([id, figure]) => {
      const { data, layout } = painted(figure, style);
      for (const trace of data) trace.visible = !hidden.has(trace.legendgroup);
      if (touch.matches) layout.dragmode = false; // a finger on a chart scrolls the page
      const frame = document.getElementById(id);
      if (isPrinting) Object.assign(layout, { width: frame.clientWidth, height: frame.clientHeight });
      return Plotly.react(frame, data, layout, { responsive: true, displayModeBar: false });
    }));
  }

  // Paper is white and has a width of its own; the style sheet knows both.
  function drawForPaper(isPrinting) {
    document.documentElement.toggleAttribute("data-print", isPrinting);
    draw();
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const group = button.dataset.group;
      if (!hidden.delete(group)) hidden.add(group);
      button.setAttribute("aria-pressed", String(!hidden.has(group)));
      draw();
    });
  }
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => drawForPaper(true));
  addEventListener("afterprint", () => drawForPaper(false));
  draw().then(() => document.documentElement.setAttribute("data-drawn", ""));
})();
