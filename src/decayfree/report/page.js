// Draws the charts of the page in its colors, those of the chosen group where there are many, again when the color scheme changes, and
// hides or shows a method everywhere.
"use strict";
(() => {
  const { figures, views } = JSON.parse(document.getElementById("figures").textContent);
  const chosen = Object.fromEntries(Object.keys(views).map((id) => [id, 0]));
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

  // The figures to draw now: all that stand alone, and of every section with groups those of the chosen one.
  function current() {
    const drawn = { ...figures };
    for (const [id, index] of Object.entries(chosen)) {
      views[id].views[index].charts.forEach((chart, slot) => { drawn[`${id}-${slot}`] = chart.figure; });
    }
    return drawn;
  }

  function show(id, index) {
    chosen[id] = index;
    const { text, charts } = views[id].views[index];
    const select = document.querySelector(`select[data-views="${id}"]`);
    if (select) {
      select.value = String(index);
      document.querySelector(`[data-label="${id}"]`).textContent = select.options[index].textContent;
    }
    document.querySelector(`[data-text="${id}"]`).textContent = text;
    for (const frame of document.querySelectorAll(`figure[data-slot^="${id}-"]`)) {
      const slot = Number(frame.dataset.slot.slice(id.length + 1)), chart = charts[slot];
      frame.hidden = !chart;
      if (!chart) continue;
      frame.querySelector("b").textContent = chart.title;
      frame.querySelector("span").textContent = chart.unit;
      frame.querySelector(".chart").setAttribute("aria-label", `${chart.title} ${chart.unit}`);
    }
  }

  // One chart in the colors of now; runs.js draws its own by it.
  function drawOne(id, figure) {
    const root = document.documentElement, frame = document.getElementById(id);
    const { data, layout } = painted(figure, getComputedStyle(root));
    for (const trace of data) trace.visible = !hidden.has(trace.legendgroup);
    if (touch.matches) layout.dragmode = false; // a finger on a chart scrolls the page
    if (root.hasAttribute("data-print")) Object.assign(layout, { width: frame.clientWidth, height: frame.clientHeight });
    return Plotly.react(frame, data, layout, { responsive: true, displayModeBar: false });
  }
  document.drawOne = drawOne;

  function draw() {
    return Promise.all(Object.entries(current()).map(([id, figure]) => drawOne(id, figure)));
  }

  // Paper is white, has a width of its own and unfolds nothing; the style sheet knows the first two.
  const unfolded = [];
  function drawForPaper(isPrinting) {
    if (isPrinting) unfolded.push(...document.querySelectorAll("details.fold:not([open])"));
    for (const fold of isPrinting ? unfolded : unfolded.splice(0)) fold.open = isPrinting;
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
  for (const tools of document.querySelectorAll(".chooser")) {
    const select = tools.querySelector("select");
    if (!select) continue;
    tools.hidden = false;
    const choose = (index) => { show(select.dataset.views, index); draw(); };
    select.addEventListener("input", () => choose(Number(select.value)));
    for (const button of tools.querySelectorAll("button")) {
      const n = select.options.length;
      button.addEventListener("click", () => choose((Number(select.value) + Number(button.dataset.step) + n) % n));
    }
  }
  for (const id of Object.keys(views)) show(id, views[id].first);
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => drawForPaper(true));
  addEventListener("afterprint", () => drawForPaper(false));
  draw().then(() => document.documentElement.setAttribute("data-drawn", ""));
})();
