// What the theme leaves out for screen readers and keyboards.
const reach = () => {
  for (const box of document.querySelectorAll("pre, table.docutils, .cell_output table, .formula")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.setAttribute("aria-level", "2");
  document.querySelector("aside.sidebar-drawer")?.setAttribute("aria-label", "Pages");
  // Of a long signature each line is a definition of nothing.
  for (const lines of document.querySelectorAll("dt.sig dl")) {
    for (const line of [...lines.children]) {
      const plain = document.createElement("div");
      plain.style.marginLeft = "2rem";
      plain.append(...line.childNodes);
      lines.before(plain);
    }
    lines.remove();
  }
  reach();
});
addEventListener("resize", reach);
