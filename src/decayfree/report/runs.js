// Opens a run's view when its link is followed: what it did, its curves, its settings, its files.
"use strict";
(() => {
  const view = document.getElementById("run-view"), text = document.getElementById("run-data");
  if (!view || !text) return;
  const part = (name) => document.getElementById(`run-${name}`);
  let data = null; // read when the first run is asked for

  function row(name, value) {
    const line = document.createElement("tr"), heading = document.createElement("th"), cell = document.createElement("td");
    heading.scope = "row";
    heading.append(name);
    cell.append(value);
    line.append(heading, cell);
    return line;
  }

  function file(key, name) {
    const path = `runs/${key}/${name}`;
    if (data.archive) return path;
    const link = document.createElement("a");
    link.href = path;
    link.append(path);
    return link;
  }

  function draw(run) {
    run.curves.forEach((values, index) => {
      const frame = view.querySelector(`[data-curve="${index}"]`);
      frame.hidden = !values.some((value) => value !== null);
      if (frame.hidden) return;
      const x = data.steps[run.steps], line = { color: "var(--m0)", width: 2 }, marker = { color: "var(--m0)", size: 4 };
      const trace = { type: "scatter", mode: "lines+markers", x, y: values, line, marker, hovertemplate: "%{y}<extra></extra>" };
      document.drawOne(`run-chart-${index}`, { data: [trace], layout: data.layouts[index] });
    });
  }

  function show() {
    const key = /^#run-([0-9a-f]+)$/.exec(location.hash)?.[1];
    if (!key) return view.close();
    data ??= JSON.parse(text.textContent);
    const run = data.runs[key];
    if (!run) return view.close();
    part("title").textContent = run.title;
    part("state").textContent = run.state;
    const known = data.names.flatMap((name, index) => run.settings[index] === null ? [] : [[name, run.settings[index]]]);
    part("settings").replaceChildren(...[...known, ["training time", run.took]].map(([name, value]) => row(name, value)));
    part("where").textContent = data.archive ? `Files, packed in ${data.archive}` : "Files, beside this page";
    part("files").replaceChildren(...run.files.map((name) => row(name, file(key, name))));
    if (!view.open) view.showModal();
    view.scrollTop = 0;
    draw(run);
  }

  // An address without the run, without a jump to the top of the page.
  function forget() {
    if (location.hash.startsWith("#run-")) history.replaceState(null, "", "#");
  }

  function leave() {
    view.close();
    forget();
  }

  part("close").addEventListener("click", leave);
  view.addEventListener("click", (event) => { if (event.target === view) leave(); });
  view.addEventListener("cancel", forget);
  addEventListener("hashchange", show);
  if (location.hash) show();
})();
