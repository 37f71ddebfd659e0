// What the page does by itself: the table of claims sorts and filters, curves answer to the mouse and to the keyboard.
"use strict";
const make = (name, attributes = {}, text = "") => {
  const svg = ["svg", "path", "line", "text", "circle", "g", "rect"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text) node.textContent = text;
  return node;
};

// --- narrow screens: what can be opened is closed; on paper everything is open
const narrow = matchMedia("(max-width: 40rem)");
const fold = () => document.querySelectorAll("details.narrow, details.plots").forEach(d => { d.open = !narrow.matches; });
narrow.addEventListener("change", fold);
fold();
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach(d => { d.open = true; });
});
addEventListener("afterprint", () => closed.forEach(d => { d.open = false; }));
const reveal = () => {                       // a link leads to its place, whatever is closed around it
  const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!place) return;
  for (let d = place.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  place.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();

// --- claims
const claims = document.querySelector("table.claims");
if (claims) {
  const body = claims.tBodies[0], rows = [...body.rows], tools = document.querySelector(".tools");
  const search = tools.querySelector("input"), count = tools.querySelector("output");
  const buttons = [...tools.querySelectorAll("button[data-says]")];
  const filter = () => {
    const wanted = buttons.filter(b => b.getAttribute("aria-pressed") === "true").map(b => b.dataset.says);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = (wanted.length > 0 && !wanted.includes(row.dataset.says)) || !words.every(w => text.includes(w));
    }
    count.textContent = `${rows.filter(r => !r.hidden).length} of ${rows.length} claims`;
  };
  for (const button of buttons) button.onclick = () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
    filter();
  };
  search.oninput = filter;
  for (const button of claims.querySelectorAll("thead button")) button.onclick = () => {
    const head = button.closest("th"), up = head.getAttribute("aria-sort") !== "ascending", key = button.dataset.key;
    for (const other of claims.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => a.dataset[key].localeCompare(b.dataset[key], "en", { numeric: true });
    body.append(...rows.sort((a, b) => up ? order(a, b) : order(b, a)));
  };
  tools.hidden = false;
  filter();
  const open = () => {                         // a link to a claim shows it, whatever is filtered
    const row = location.hash.startsWith("#claim-") && document.getElementById(location.hash.slice(1));
    if (row && row.hidden) { search.value = ""; buttons.forEach(b => b.setAttribute("aria-pressed", "false")); filter(); row.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  open();
}

// --- curves
const COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#8a6a45", "#b0629b", "#5c5c5c"];
const ticks = (low, high, n) => {
  const rough = (high - low || 1) / n, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * power).find(s => s >= rough), found = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) found.push(+v.toPrecision(12));
  return found;
};
const drawPlot = (plot, box) => {
  const W = 640, H = 300, left = 56, right = 12, top = 12, bottom = 40, hidden = new Set();
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0, "aria-label": `${plot.title} over ${plot.x}; arrow keys read the values` });
  const legend = make("div", { class: "lines" }), readout = make("p", { class: "readout", "aria-live": "polite" });
  box.append(make("h4", {}, plot.title), svg, legend, readout);
  const xs = [...new Set(plot.lines.flatMap(l => l.points.map(p => p[0])))].sort((a, b) => a - b);
  let at = null;
  const draw = () => {
    svg.replaceChildren();
    const lines = plot.lines.filter(l => !hidden.has(l.name));
    const all = lines.flatMap(l => l.points.flatMap(p => p.slice(1).filter(v => v !== null)));
    if (!all.length) return;
    let low = Math.min(...all), high = Math.max(...all);
    const pad = (high - low || Math.abs(high) || 1) * 0.06; low -= pad; high += pad;
    const X = v => left + (v - xs[0]) / (xs.at(-1) - xs[0] || 1) * (W - left - right);
    const Y = v => H - bottom - (v - low) / (high - low) * (H - top - bottom);
    for (const v of ticks(low, high, 5)) svg.append(make("line", { x1: left, x2: W - right, y1: Y(v), y2: Y(v), class: "grid" }),
      make("text", { x: left - 7, y: Y(v) + 4, "text-anchor": "end" }, String(v)));
    for (const v of ticks(xs[0], xs.at(-1), 6)) svg.append(make("text", { x: X(v), y: H - bottom + 18, "text-anchor": "middle" }, String(v)));
    svg.append(make("text", { x: (left + W - right) / 2, y: H - 6, "text-anchor": "middle" }, plot.x));
    for (const line of lines) {
      const colour = COLOURS[plot.lines.indexOf(line) % COLOURS.length], points = line.points.filter(p => p[1] !== null);
      const path = (list, k) => list.map((p, i) => `${i ? "L" : "M"}${X(p[0]).toFixed(1)},${Y(p[k]).toFixed(1)}`).join("");
      const band = points.filter(p => p[2] !== undefined && p[2] !== null && p[3] !== null);
      if (band.length > 1) svg.append(make("path", { d: path(band, 2) + path([...band].reverse(), 3).replace("M", "L") + "Z", fill: colour, opacity: .12 }));
      svg.append(make("path", { d: path(points, 1), fill: "none", stroke: colour, "stroke-width": 2 }));
      const here = points.find(p => p[0] === at);
      if (here) svg.append(make("circle", { cx: X(at), cy: Y(here[1]), r: 4, fill: colour }));
    }
    if (at !== null) svg.append(make("line", { x1: X(at), x2: X(at), y1: top, y2: H - bottom, class: "cursor" }));
    readout.textContent = at === null ? "" : `${plot.x} ${at}: ` + lines.flatMap(l => l.points.filter(p => p[0] === at && p[1] !== null)
      .map(p => `${l.name} ${p[1]}${p[2] !== undefined && p[2] !== null ? ` [${p[2]}, ${p[3]}]` : ""}`)).join(" · ");
  };
  const move = i => { at = xs[Math.max(0, Math.min(xs.length - 1, i))]; draw(); };
  svg.onpointermove = event => {
    const r = svg.getBoundingClientRect(), x = (event.clientX - r.left) / r.width * W;
    move(Math.round((x - left) / (W - left - right) * (xs.length - 1)));
  };
  svg.onpointerleave = () => { at = null; draw(); };
  svg.onkeydown = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); move(at === null ? 0 : xs.indexOf(at) + step); }
  };
  plot.lines.forEach((line, i) => {
    const button = make("button", { type: "button", "aria-pressed": "true" }), swatch = make("span", { style: `background:${COLOURS[i % COLOURS.length]}` });
    button.append(swatch, line.name);
    button.onclick = () => {
      hidden.has(line.name) ? hidden.delete(line.name) : hidden.add(line.name);
      button.setAttribute("aria-pressed", !hidden.has(line.name));
      draw();
    };
    legend.append(button);
  });
  draw();
};
for (const data of document.querySelectorAll("script[type='application/json'].curves")) {
  const place = data.parentElement;
  for (const plot of JSON.parse(data.textContent)) {
    const box = make("div", { class: "plot" });
    place.append(box);
    drawPlot(plot, box);
  }
}
