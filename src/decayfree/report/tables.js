// Makes the headings of tables buttons that sort, and shows the search fields and filters that only a script can serve.
"use strict";
(() => {
  const number = /^[-+\u2212]?[\d.,]+(e[-+]?\d+)?$/i;

  // What a cell is sorted by: the number that the page has put there, a number that it shows, or its text.
  function key(cell) {
    const text = (cell.dataset.sort ?? cell.textContent).trim();
    if (text === "") return null;
    return number.test(text) ? Number(text.replaceAll(",", "").replace("\u2212", "-")) : text;
  }

  function compare(first, second) {
    if (typeof first === "number" && typeof second === "number") return first - second;
    return String(first).localeCompare(String(second), "en", { numeric: true });
  }

  function sort(table, index, heading) {
    const isRising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", isRising ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, key: key(row.cells[index]) }));
    rows.sort((one, other) => {
      if (one.key === null || other.key === null) return (one.key === null) - (other.key === null); // empty ones last
      return (isRising ? 1 : -1) * compare(one.key, other.key);
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((heading, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, index, heading));
    });
  }

  // Cards have no headings to press: a choice stands above them.
  for (const tools of document.querySelectorAll(".tools[data-for]")) {
    const table = document.getElementById(tools.dataset.for), label = document.createElement("label");
    if (table.tBodies[0].rows.length < 3) continue;
    const select = document.createElement("select"), headings = [...table.tHead.rows[0].cells];
    select.append(new Option("as it came", ""), ...headings.map((heading, index) => new Option(heading.querySelector("button").firstChild.textContent, index)));
    select.addEventListener("input", () => { if (select.value) sort(table, Number(select.value), headings[select.value]); });
    label.className = "by";
    label.append("Sort by ", select);
    tools.append(label);
    tools.hidden = false;
  }

  for (const tools of document.querySelectorAll(".tools[data-for]")) {
    const table = document.getElementById(tools.dataset.for), search = tools.querySelector("input");
    const selects = [...tools.querySelectorAll("select[data-column]")], shown = tools.querySelector(".shown");
    if (!search) continue;
    tools.hidden = false;
    const cellText = (cell) => (cell.querySelector("summary") ?? cell.firstChild)?.textContent.trim() ?? "";
    // What a row is found by: all that it says but the facts on its difference, which name the reference in every row.
    const found = new Map([...table.tBodies[0].rows].map((row) => {
      const copy = row.cloneNode(true);
      for (const fact of copy.querySelectorAll(".fact")) fact.remove();
      return [row, copy.textContent.toLowerCase()];
    }));
    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      for (const row of table.tBodies[0].rows) {
        const text = found.get(row);
        const fits = words.every((word) => text.includes(word))
          && selects.every((select) => !select.value || cellText(row.cells[select.dataset.column]) === select.value);
        row.hidden = !fits;
        n += fits;
      }
      const total = table.tBodies[0].rows.length;
      shown.textContent = n === total ? `${total} rows` : `${n} of ${total} rows`;
    }
    for (const control of [search, ...selects]) control.addEventListener("input", filter);
    filter();
  }
})();
