"use strict";
// Whatever comes from the data reaches the page as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const state = { board: data.boards[0], kind: "all", sort: null, down: true, shown: 24 };
const number = (v) => (v === "inf" ? Infinity : v === "-inf" ? -Infinity : v);

function make(tag, attributes, ...children) {
  const svg = ["svg", "g", "line", "circle", "text", "title"].includes(tag) && attributes && attributes.svg;
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "svg" || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const fill = (node, ...children) => node.replaceChildren(...children.filter(Boolean));

function shown(head, value) {
  value = number(value);
  if (value === null || value === undefined) return "–";
  if (!isFinite(value)) return value > 0 ? "∞" : "-∞";
  return (value * head.scale).toFixed(head.digits);
}
const label = (head) => head.text;
const long = (head) => head.full;
const heads = () => state.board.headings.filter((head) => !head.empty);
const rows = () => state.board.rows[state.kind] || [];
const better = (head, a, b) => (head.direction === "higher" ? a > b : a < b);
const valuesOf = (row, head) => (state.board.values[row] || {})[head.name] || [];
const inKind = (index) => state.kind === "all" || data.cases[index].kind === state.kind;

function options(select, entries, wanted) {
  const before = wanted === undefined ? select.value : wanted;
  fill(select, ...entries.map(([value, text]) => make("option", { value }, text)));
  if (entries.some(([value]) => value === before)) select.value = before;
}

// --- the table
function drawTable() {
  const shownHeads = heads(), board = state.board;
  const groups = [];
  for (const head of shownHeads) {
    const last = groups[groups.length - 1];
    if (last && last.name === head.group) last.span += 1; else groups.push({ name: head.group, span: 1 });
  }
  const sortable = (key, text) => {
    const on = state.sort === key;
    const sort = () => { state.down = on ? !state.down : true; state.sort = key; drawTable(); $("means").querySelector(`[data-key="${CSS.escape(key)}"]`).focus(); };
    return make("th", { scope: "col", "aria-sort": on ? (state.down ? "descending" : "ascending") : undefined },
      make("button", { type: "button", onclick: sort, "data-key": key }, text));
  };
  const top = make("tr", {}, make("th"), make("th"), ...groups.map((g) => make("th", { colspan: g.span, scope: "colgroup" }, g.name)));
  const second = make("tr", {}, sortable("row", "Row"), sortable("cases", "Cases"), ...shownHeads.map((h) => sortable(h.name, label(h))));
  const best = new Map();
  for (const head of shownHeads) {
    const told = rows().filter((row) => !row.trivial && row.figures[head.name].mean !== null).map((row) => number(row.figures[head.name].mean));
    if (told.length > 1) best.set(head.name, shown(head, told.reduce((a, b) => (better(head, b, a) ? b : a))));
  }
  const key = (row) => (state.sort === "row" ? row.name : state.sort === "cases" ? row.cells : number((row.figures[state.sort] || {}).mean));
  const ordered = [...rows()];
  if (state.sort) ordered.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || x === undefined) return 1;
    if (y === null || y === undefined) return -1;
    return (x < y ? -1 : x > y ? 1 : 0) * (state.down ? -1 : 1);
  });
  const body = ordered.map((row) => make("tr", { class: row.trivial ? "trivial" : undefined },
    make("th", { scope: "row", title: row.environment }, row.name, row.uses ? make("span", { class: "uses" }, `told: ${row.uses}`) : null),
    make("td", {}, String(row.cells), row.failed ? make("span", { class: "interval outside" }, `${row.failed} failed`) : null,
      row.unscored ? make("span", { class: "interval" }, `${row.unscored} not scored`) : null),
    ...shownHeads.map((head) => {
      const f = row.figures[head.name], text = shown(head, f.mean);
      return make("td", {}, make("span", { class: !row.trivial && text === best.get(head.name) ? "best" : undefined }, text),
        f.low === null ? null : make("span", { class: "interval" }, `${shown(head, f.low)} … ${shown(head, f.high)}`),
        f.mean !== null && f.n !== row.cells ? make("span", { class: "interval" }, `n = ${f.n}`) : null);
    })));
  fill($("means"), make("thead", {}, top, second), make("tbody", {}, ...body));
  $("table-hint").textContent = `Mode ${board.mode}. Mean over cases, below it the ${Math.round(data.level * 100)} % interval, and n where it is not the number of cases. Names of columns sort.`;
  fill($("notes").querySelector("ul"), ...board.notes.map((note) => make("li", {}, note)));
}

function drawPublished() {
  const told = state.board.published;
  $("published-section").hidden = !told;
  if (!told) return;
  const columns = told.columns, head = (name) => told.heads[name];
  const table = told.rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), ...row.cells.map((cell, i) => {
    const h = head(columns[i]);
    const difference = cell.difference === null ? null : `${cell.difference >= 0 ? "+" : ""}${shown(h, cell.difference)}`;
    return make("td", {}, shown(h, cell.ours), make("span", { class: "interval" }, `published ${shown(h, cell.printed)}`),
      difference === null ? null : make("span", { class: `interval ${cell.within ? "within" : "outside"}` }, `${difference} ${cell.within ? "within" : "outside"}`));
  })));
  fill($("published"), make("thead", {}, make("tr", {}, make("th", {}, "Row"), ...columns.map((name) => make("th", { scope: "col" }, long(head(name)))))), make("tbody", {}, ...table));
  $("published-hint").textContent = [`${told.summary}.`, ...told.warnings.map((w) => `${w[0].toUpperCase()}${w.slice(1)}.`), `Source: ${told.source}.`].join(" ");
}

// --- the scatter
function axis(head, ends, from, to) {
  const flip = head.direction === "lower";
  const low = Math.min(...ends), high = Math.max(...ends), room = (high - low || Math.abs(high) || 1) * 0.08;
  const a = low - room, b = high + room;
  const place = (v) => { const share = (v - a) / (b - a); return from + (to - from) * (flip ? 1 - share : share); };
  const step = 10 ** Math.floor(Math.log10((b - a) / 4)), nice = [1, 2, 5, 10].map((m) => m * step).find((s) => (b - a) / s <= 6);
  const ticks = [];
  for (let t = Math.ceil(a / nice) * nice; t <= b; t += nice) ticks.push(t);
  return { place, ticks, digits: Math.max(0, -Math.floor(Math.log10(nice) + 1e-9)) };
}
function drawScatter() {
  const [hx, hy] = [$("x"), $("y")].map((s) => heads().find((h) => h.name === s.value));
  if (!hx || !hy) return fill($("scatter"), make("p", { class: "hint" }, "Two columns with values are needed."));
  const points = rows().map((row) => ({ row, x: row.figures[hx.name], y: row.figures[hy.name] }))
    .filter((p) => isFinite(number(p.x.mean)) && isFinite(number(p.y.mean)) && p.x.mean !== null && p.y.mean !== null);
  const left = rows().filter((row) => !points.some((p) => p.row === row)).map((row) => row.name);
  if (!points.length) return fill($("scatter"), make("p", { class: "hint" }, "No row has both values."));
  const ends = (k, h) => points.flatMap((p) => [p[k].mean, p[k].low ?? p[k].mean, p[k].high ?? p[k].mean].map((v) => v * h.scale));
  const W = 640, H = 430, ax = axis(hx, ends("x", hx), 56, W - 20), ay = axis(hy, ends("y", hy), H - 50, 16);
  const svg = make("svg", { svg: 1, viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${long(hy)} against ${long(hx)}` });
  const add = (tag, attributes, ...children) => svg.append(make(tag, { svg: 1, ...attributes }, ...children));
  for (const t of ax.ticks) { add("line", { class: "grid", x1: ax.place(t), x2: ax.place(t), y1: 16, y2: H - 50 }); add("text", { class: "tick", x: ax.place(t), y: H - 34, "text-anchor": "middle" }, t.toFixed(ax.digits)); }
  for (const t of ay.ticks) { add("line", { class: "grid", x1: 56, x2: W - 20, y1: ay.place(t), y2: ay.place(t) }); add("text", { class: "tick", x: 50, y: ay.place(t) + 4, "text-anchor": "end" }, t.toFixed(ay.digits)); }
  add("text", { x: (W + 36) / 2, y: H - 10, "text-anchor": "middle" }, long(hx));
  add("text", { x: -(H - 34) / 2, y: 13, "text-anchor": "middle", transform: "rotate(-90)" }, long(hy));
  const boxes = [];
  for (const p of points) {
    const x = ax.place(p.x.mean * hx.scale), y = ay.place(p.y.mean * hy.scale);
    if (p.x.low !== null) add("line", { class: "bar", x1: ax.place(p.x.low * hx.scale), x2: ax.place(p.x.high * hx.scale), y1: y, y2: y });
    if (p.y.low !== null) add("line", { class: "bar", x1: x, x2: x, y1: ay.place(p.y.low * hy.scale), y2: ay.place(p.y.high * hy.scale) });
    add("circle", { class: p.row.trivial ? "dot trivial" : "dot", cx: x, cy: y, r: 5 }, make("title", { svg: 1 }, `${p.row.name}: ${shown(hx, p.x.mean)}, ${shown(hy, p.y.mean)}`));
    boxes.push({ x: x - 6, y: y - 6, w: 12, h: 12 });
  }
  const hits = (box) => boxes.some((b) => box.x < b.x + b.w && b.x < box.x + box.w && box.y < b.y + b.h && b.y < box.y + box.h);
  for (const p of points) {
    const x = ax.place(p.x.mean * hx.scale), y = ay.place(p.y.mean * hy.scale), w = p.row.name.length * 6.6 + 4;
    let chosen = null;
    for (let ring = 0; ring < 9 && !chosen; ring++) for (const [dx, dy] of [[9, -5], [-9 - w, -5], [9, 12], [-9 - w, 12], [-w / 2, -12], [-w / 2, 22]]) {
      const box = { x: x + dx, y: y + dy - 9 + (dy < 0 ? -13 : 13) * ring, w, h: 12 };
      if (box.x > 58 && box.x + w < W && box.y > 4 && box.y + 12 < H - 52 && !hits(box)) { chosen = { ...box, ring }; break; }
    }
    if (!chosen) continue;
    boxes.push(chosen);
    if (chosen.ring) add("line", { class: "leader", x1: x, y1: y, x2: chosen.x + (chosen.x > x ? 0 : w), y2: chosen.y + 6 });
    add("text", { x: chosen.x + 2, y: chosen.y + 10 }, p.row.name);
  }
  fill($("scatter"), svg, left.length ? make("p", { class: "hint" }, `Not shown (no finite mean in both): ${left.join(", ")}.`) : null);
}

// --- pairs: compared in Python, and embedded with the names in alphabetical order
function compared(head, a, b) {
  const found = (state.board.pairs[state.kind] || {})[head.name] || {};
  if (a === b || found[`${a}\n${b}`]) return found[`${a}\n${b}`];
  const entry = found[`${b}\n${a}`];
  if (!entry) return undefined;
  const [mean, low, high, wins, n] = entry, minus = (v) => (v === null ? null : -number(v));
  return [minus(mean), minus(high), minus(low), wins === null ? null : 1 - wins, n];
}
function drawPair() {
  const [a, b] = [$("first").value, $("second").value];
  const lines = heads().map((head) => {
    const entry = compared(head, a, b);
    if (!entry || !entry[4]) return make("tr", {}, make("th", { scope: "row" }, long(head)), make("td", { colspan: 3 }, entry ? "no case in which both are finite" : a === b ? "one row" : "many rows: compared over all types alone"));
    const [mean, low, high, wins, n] = entry.map(number);
    const clear = low !== null && (low > 0 || high < 0), first = better(head, mean, 0);
    const plus = (v) => `${v > 0 ? "+" : ""}${shown(head, v)}`;
    return make("tr", {}, make("th", { scope: "row" }, long(head)),
      make("td", {}, plus(mean), low === null ? null : make("span", { class: "interval" }, `${plus(low)} … ${plus(high)}`)),
      make("td", {}, `${Math.round(wins * 100)} %`, make("span", { class: `interval ${clear ? (first ? "within" : "outside") : ""}` }, clear ? (first ? "first is better" : "second is better") : "not clear")),
      make("td", {}, String(n)));
  });
  fill($("pair"), make("thead", {}, make("tr", {}, ...["Column", "Difference", "Wins", "n"].map((t) => make("th", { scope: "col" }, t)))), make("tbody", {}, ...lines));
}

// --- cases
function picture(index, name, text) {
  const told = (data.pictures[index] || {})[name];
  if (told) return make("img", { src: told, alt: text, loading: "lazy" });
  const failed = (data.failures[state.board.task] || {})[`${index} ${name}`];
  return make("div", { class: "none" }, failed ? `failed: ${failed}` : "no picture");
}
function orderedCases() {
  const head = heads().find((h) => h.name === $("case-column").value), row = $("case-row").value, order = $("case-order").value;
  const list = data.cases.map((_, i) => i).filter((i) => inKind(i) && state.board.cases.includes(i));
  if (!head || order === "id") return [list, head, row];
  const values = valuesOf(row, head).map(number), none = (v) => v === null || v === undefined;
  list.sort((i, j) => {
    const [x, y] = [values[i], values[j]];
    if (none(x) || none(y)) return none(x) - none(y) || i - j;
    return x === y ? i - j : (better(head, x, y) ? -1 : 1) * (order === "best" ? 1 : -1);
  });
  return [list, head, row];
}
function drawCases() {
  const [list, head, row] = orderedCases();
  fill($("cases"), ...list.slice(0, state.shown).map((i) => {
    const told = data.cases[i];
    return make("li", {}, make("button", { type: "button", onclick: () => openCase(i), "aria-label": `Case ${told.id}: ${told.target}` },
      make("span", { class: "pictures" }, picture(i, "source", "source"), picture(i, row, row)),
      make("span", { class: "prompt" }, told.target || told.source),
      make("span", { class: "meta" }, make("span", {}, told.kind), make("span", {}, head ? `${long(head)} ${shown(head, valuesOf(row, head)[i])}` : ""))));
  }));
  $("cases-hint").textContent = `${list.length} cases: source and ${row}. ${data.thumbnails}`;
  $("more").hidden = list.length <= state.shown;
}
function openCase(index) {
  const [list] = orderedCases(), told = data.cases[index], dialog = $("case"), at = list.indexOf(index);
  const go = (by) => { const next = list[(at + by + list.length) % list.length]; if (next !== undefined) openCase(next); };
  const figures = [["source", "source"], ["mask", "mask"], ...rowsOf(index).map((row) => [row, row])].map(([name, text]) => {
    const lines = name === "source" || name === "mask" ? [] : heads().flatMap((head) => {
      const value = valuesOf(name, head)[index];
      return value === null || value === undefined ? [] : [make("dt", {}, long(head)), make("dd", {}, shown(head, value))];
    });
    return make("figure", {}, make("figcaption", {}, text), picture(index, name, text), make("dl", {}, ...lines));
  });
  fill(dialog, make("div", { class: "bar" }, make("h2", { id: "case-title" }, `Case ${told.id}, ${told.kind}`),
    make("span", {}, make("button", { type: "button", onclick: () => go(-1), "aria-label": "Previous case" }, "←"), " ",
      make("button", { type: "button", onclick: () => go(1), "aria-label": "Next case" }, "→"), " ",
      make("button", { type: "button", onclick: () => dialog.close() }, "Close"))),
  make("p", {}, make("span", { class: "hint" }, "source "), told.source), told.target ? make("p", {}, make("span", { class: "hint" }, "target "), told.target) : null,
  told.instruction ? make("p", {}, make("span", { class: "hint" }, "instruction "), told.instruction) : null,
  make("div", { class: "sheet" }, ...figures));
  dialog.onkeydown = (event) => { if (event.key === "ArrowLeft") go(-1); if (event.key === "ArrowRight") go(1); };
  if (!dialog.open) dialog.showModal();
  history.replaceState(null, "", `#case=${encodeURIComponent(told.id)}`);
}
const rowsOf = () => (state.board.rows.all || []).map((row) => row.name);

// --- choices
function choose() {
  const names = rowsOf(), columns = heads().map((h) => [h.name, long(h)]), has = (wanted) => columns.map((c) => c[0]).find((c) => wanted.test(c));
  options($("kind"), Object.keys(state.board.rows).map((k) => [k, k === "all" ? "all types" : k]));
  state.kind = $("kind").value || "all";
  const methods = (state.board.rows.all || []).filter((row) => !row.trivial).map((row) => row.name);
  options($("x"), columns, $("x").value || has(/^psnr_unedit_part|^psnr$/));
  options($("y"), columns, $("y").value || has(/^success$/) || has(/^psnr_true_edit_inside/) || has(/^clip_similarity_target_image/) || has(/^ssim/));
  options($("first"), names.map((n) => [n, n]), $("first").value || methods[0]);
  options($("second"), names.map((n) => [n, n]), $("second").value || methods[1]);
  options($("case-row"), names.map((n) => [n, n]), $("case-row").value || methods[0]);
  options($("case-column"), columns, $("case-column").value || has(/^psnr_true_edit(\[|$)/) || has(/^psnr_true_edit/) || has(/^psnr_unedit_part|^psnr$/));
  draw();
}
function draw() { drawTable(); drawPublished(); drawScatter(); drawPair(); drawCases(); }

$("boards").append(make("div", { class: "segments" }, ...data.boards.map((board, i) =>
  make("label", {}, make("input", { type: "radio", name: "board", checked: i === 0, onchange: () => { state.board = board; state.sort = null; choose(); } }),
    data.boards.some((b) => b.task !== board.task) ? `${board.task}, ${board.mode}` : board.mode))));
$("kind").addEventListener("change", () => { state.kind = $("kind").value; state.shown = 24; draw(); });
for (const id of ["x", "y"]) $(id).addEventListener("change", drawScatter);
for (const id of ["first", "second"]) $(id).addEventListener("change", drawPair);
for (const id of ["case-row", "case-column", "case-order"]) $(id).addEventListener("change", drawCases);
$("more").addEventListener("click", () => { state.shown += 48; drawCases(); });
$("case").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
choose();
const asked = decodeURIComponent((location.hash.match(/^#case=(.+)$/) || ["", ""])[1]);
if (asked) { const index = data.cases.findIndex((c) => c.id === asked); if (index >= 0) openCase(index); }
